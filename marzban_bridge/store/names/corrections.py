"""What the feed says of corrections: what they added to a reported name, since for ever."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from marzban_bridge.quota.usage import UsageChange
from marzban_bridge.store.handle import StoreHandle

CORRECTED = "corrected:"
"""Before a reported name: what corrections added to it, by the feed."""
COUNTED_FROM = "counted_from:"
"""Before a reported name that counts for another: up to which number it does not."""


class Corrected(msgspec.Struct, frozen=True):
    """What corrections added to a reported name since for ever."""

    seq: int
    billed_bytes: int
    raw_bytes: int


class Corrections:
    """Corrections of what was read from the feed, for all panels."""

    def __init__(self, handle: StoreHandle) -> None:
        self._handle = handle

    def note(self, changes: Sequence[UsageChange]) -> None:
        """Store what corrections added to names; a ledger that went back may have fewer of them.

        Part of a transaction.
        """
        self._handle.db.executemany(
            "DELETE FROM meta WHERE key = ?",
            [(CORRECTED + each.username,) for each in changes if not each.corrected_seq],
        )
        for each in changes:
            if each.corrected_seq:
                told = Corrected(each.corrected_seq, each.corrected_bytes, each.corrected_raw_bytes)
                key, value = CORRECTED + each.username, msgspec.json.encode(told).decode()
                self._handle.set_meta(key, value)

    def names(self) -> list[str]:
        """Return the reported names that corrections added something to, or took back."""
        return [key.removeprefix(CORRECTED) for key in self._handle.metas(CORRECTED)]

    def of(self, username: str) -> Corrected | None:
        """Return what corrections added to a reported name; None where there were none."""
        told = self._handle.meta(CORRECTED + username)
        return None if told is None else msgspec.json.decode(told, type=Corrected)

    def counted_from(self, username: str) -> int:
        """Return up to which number of the feed a name does not count for its account."""
        return int(self._handle.meta(COUNTED_FROM + username) or 0)

    def set_counted_from(self, username: str, change_seq: int) -> None:
        """Count a reported name for its account from behind a number on."""
        self._handle.set_meta(COUNTED_FROM + username, str(change_seq))
