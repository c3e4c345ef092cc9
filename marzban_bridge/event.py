"""An event, for the audit trail: what happened, who did it, and values before and after."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event of an account, of a reseller, or of a whole panel."""

    kind: str
    text: str
    actor: str = "bridge"
    before: str | None = None
    after: str | None = None
