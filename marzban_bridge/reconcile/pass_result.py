"""What one pass over the users of a panel came to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PassResult:
    """What one pass over all users came to."""

    users: int
    failures: int
    seconds: float
    doubt: str | None = None
    """Why no user was changed."""
