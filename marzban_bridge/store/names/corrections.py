"""Corrections from the feed: the sum that they added to each reported name."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from marzban_bridge.quota.usage import UsageChange
from marzban_bridge.store.handle import StoreHandle

CORRECTED = "corrected:"
"""Prefix of a reported name: the sum that corrections added to it."""
COUNTED_FROM = "counted_from:"
"""Prefix of an alias: the change number up to which it is not charged to its account."""


class Corrected(msgspec.Struct, frozen=True):
    """The sum that all corrections added to a reported name."""

    seq: int
    billed_bytes: int
    raw_bytes: int


class Corrections:
    """Corrections as read from the feed, for all panels."""

    def __init__(self, handle: StoreHandle) -> None:
        self._handle = handle

    def note(self, changes: Sequence[UsageChange]) -> None:
        """Store the corrections in changes, within a transaction.

        A restored ledger may have fewer: a name without any is deleted.
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
        """Return the reported names with corrections."""
        return [key.removeprefix(CORRECTED) for key in self._handle.metas(CORRECTED)]

    def of(self, username: str) -> Corrected | None:
        """Return the corrections of a reported name; None if there are none."""
        told = self._handle.meta(CORRECTED + username)
        return None if told is None else msgspec.json.decode(told, type=Corrected)

    def counted_from(self, username: str) -> int:
        """Return the change number up to which a name is not charged to its account."""
        return int(self._handle.meta(COUNTED_FROM + username) or 0)

    def set_counted_from(self, username: str, change_seq: int) -> None:
        """Charge a reported name to its account only after a change number."""
        self._handle.set_meta(COUNTED_FROM + username, str(change_seq))
