"""What is stored of why a panel is suspended: a value alone; `panel_suspension` decides."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspensionReason:
    """One reason why a panel is suspended."""

    kind: str
    text: str
    """What is wrong and what to do about it, for the operator."""
    since: datetime
    witnesses: tuple[str, ...] = ()
    """Accounts whose users showed it: it lasts at least until they are as they were."""
