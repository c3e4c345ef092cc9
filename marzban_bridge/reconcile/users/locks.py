"""A lock for each user of a panel, so that no user is settled twice at a time."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary


class UserLocks:
    """The locks, by account key; each exists as long as a task holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, key: str) -> asyncio.Lock:
        """Return the user's lock."""
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock

    def is_held(self, key: str) -> bool:
        """Tell whether a task holds the user's lock."""
        lock = self._locks.get(key)
        return lock is not None and lock.locked()
