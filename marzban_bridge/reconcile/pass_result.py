"""The result of one pass over the users of a panel."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PassResult:
    """The result of one pass over all users."""

    users: int
    failures: int
    seconds: float
    suspension_text: str | None = None
    """Why no user was changed, where the store or a panel is suspended; else None."""
