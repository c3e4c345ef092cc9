"""Counts the users whom the panel saw online during a pass over all users."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from marzban_bridge.panels.users import PanelUser

ONLINE_FOR = timedelta(minutes=5)
"""How long ago the panel may have seen a user who counts as online."""


class OnlineUsers:
    """The number of users online, added up chunk by chunk."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, users: Iterable[PanelUser | None], *, now: datetime) -> None:
        """Count those users of a chunk whom the panel saw within `ONLINE_FOR`."""
        self._count += sum(
            1
            for user in users
            if user is not None and user.online_at is not None and now - user.online_at < ONLINE_FOR
        )

    def take(self) -> int:
        """Return the number of the pass that ends, and begin another."""
        count, self._count = self._count, 0
        return count
