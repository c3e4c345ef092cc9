"""From which total on a reported name is charged to a user.

Bytes reported before a panel had the user, or while the name was another panel's, are not charged
to the user. All later bytes are, even those before the user's first evaluation. So the store keeps
the totals of a name when a panel was last found not to have it, and when an unscoped name was
released by its panel.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import msgspec

from marzban_bridge.panels.names import FIRST_PANEL
from marzban_bridge.quota.usage import Totals
from marzban_bridge.store.handle import StoreHandle
from marzban_bridge.store.names.corrections import Corrections
from marzban_bridge.store.names.placement import RELEASED, Placement, denied_key


class Mark(NamedTuple):
    """The totals of a reported name at one moment."""

    total_bytes: int
    raw_bytes: int
    change_seq: int


class _Reported(NamedTuple):
    """A reported name, and the part of its totals that is not charged to its account."""

    username: str
    mark: Mark
    offset_bytes: int
    raw_offset_bytes: int
    panel: str


class Openings:
    """The first baselines of one panel's accounts."""

    def __init__(self, handle: StoreHandle, panel: str) -> None:
        self._handle = handle
        self._db = handle.db
        self._panel = panel
        self._placement = Placement(handle, panel)
        self._corrections = Corrections(handle)

    def of_new_account(self, key: str) -> Totals:
        """Return where the account of a user begins who is seen for the first time.

        What corrections took back of what is in its period was never used.
        """
        passed = self._passed(key)
        billed_bytes = raw_bytes = 0
        seqs: list[tuple[str, int]] = []
        for each in self._reported(key):
            if each.panel != self._panel and not self._handle.shares_quotas:
                continue
            if mark := passed.get(each.username):
                billed_bytes += max(0, mark.total_bytes - each.offset_bytes)
                raw_bytes += max(0, mark.raw_bytes - each.raw_offset_bytes)
                seqs.append((each.username, mark.change_seq))
                continue
            seqs.append((each.username, 0))
            # Of a name that counts from some number on, what was taken back may be from before.
            told = self._corrections.of(each.username)
            if told and not self._corrections.counted_from(each.username):
                billed_bytes -= told.billed_bytes
                raw_bytes -= told.raw_bytes
        if passed or self._placement.is_missing(key):
            kept = self._kept(key)
            billed_bytes, raw_bytes = billed_bytes + kept[0], raw_bytes + kept[1]
        return Totals(billed_bytes=billed_bytes, raw_bytes=raw_bytes, seqs=tuple(seqs))

    def _kept(self, key: str) -> tuple[int, int]:
        """Return bytes charged to an account that are under none of its names any more."""
        of_panel = "" if self._handle.shares_quotas else " AND panel = ?"
        query = (
            "SELECT coalesce(sum(total_bytes), 0), coalesce(sum(raw_bytes), 0) FROM kept_usage "
            f"WHERE account_key = ?{of_panel}"
        )
        row = self._db.execute(query, (key, self._panel) if of_panel else (key,)).fetchone()
        return row[0], row[1]

    def _passed(self, key: str) -> dict[str, Mark]:
        """Return, by reported name, the totals that are not charged to a new user of this panel.

        Where an earlier version stored only that the panel lacks the name, it is all until now.
        """
        reported = {each.username: each for each in self._reported(key)}
        denied = self._marks(denied_key(self._panel, key))
        if denied is None and self._placement.is_missing(key):
            return {username: each.mark for username, each in reported.items()}
        passed = dict(denied or {})
        for username, mark in (self._marks(RELEASED + key) or {}).items():
            known = passed.get(username)
            passed[username] = max(known, mark) if known else mark
        return {
            username: min(mark, reported[username].mark)  # a ledger that was restored may have less
            for username, mark in passed.items()
            if username in reported
        }

    def deny(self, key: str, *, panel: str = "") -> None:
        """Record that this panel, or `panel`, has no user of a name now."""
        panel = panel or self._panel
        is_unclaimed = panel == self._panel and self._placement.is_unclaimed(key)
        marks = {
            each.username: each.mark
            for each in self._reported(key)
            if self._handle.shares_quotas
            or each.panel == panel
            or (is_unclaimed and self._placement.is_alone(each.username))
        }
        if marks != self._marks(denied_key(panel, key)):
            self._set_marks(denied_key(panel, key), marks)

    def _note_released(self, key: str) -> None:
        """Record the totals of an unscoped name that is released now."""
        marks = {
            each.username: each.mark
            for each in self._reported(key)
            if self._placement.is_alone(each.username)
        }
        self._set_marks(RELEASED + key, marks)

    def place_from_now(self) -> None:
        """Assign all stored usage again, after the configured panels changed.

        Bytes of a name that no panel had are not charged to a new panel's user.
        """
        rows = self._db.execute(
            "SELECT account_key FROM orphan AS o WHERE panel = ? AND NOT EXISTS (SELECT 1 FROM "
            "placement AS p WHERE p.account_key = o.account_key)",
            (FIRST_PANEL,),
        ).fetchall()
        for (key,) in rows:
            self._note_released(key)
        self._db.executemany(
            "INSERT INTO placement (account_key, panel, is_released) VALUES (?, ?, 1)",
            [(row[0], FIRST_PANEL) for row in rows],
        )
        self._placement.place_again()

    def release(self, key: str) -> None:
        """Release an unscoped name: its next owner starts at zero, from the total of now."""
        if self._handle.shares_quotas or len(self._handle.known_panels) == 1:
            return
        if self._placement.has_name(key):
            self._placement.release(key)
            self._note_released(key)

    def keep(self, key: str, panel: str, billed_bytes: int, raw_bytes: int) -> None:
        """Keep bytes charged to an account although their name is no longer assigned to it."""
        query = "SELECT total_bytes, raw_bytes FROM kept_usage WHERE account_key = ? AND panel = ?"
        kept = self._db.execute(query, (key, panel)).fetchone() or (0, 0)
        self._db.execute(
            "INSERT OR REPLACE INTO kept_usage VALUES (?, ?, ?, ?)",
            (key, panel, kept[0] + billed_bytes, kept[1] + raw_bytes),
        )

    def forget_reported_for_panel(self) -> None:
        """Assign reports with this forgotten panel's name to no account.

        In a shared quota they stay used.
        """
        reported = (
            "SELECT u.username, u.account_key, u.total_bytes - coalesce(a.offset_bytes, 0), "
            "u.raw_bytes - coalesce(a.raw_offset_bytes, 0) FROM external_usage AS u "
            "LEFT JOIN alias AS a ON a.username = u.username WHERE u.panel = ?"
        )
        for username, key, billed_bytes, raw_bytes in self._db.execute(
            reported, (self._panel,)
        ).fetchall():
            if self._placement.take_apart(username).panel != self._panel:
                continue
            if self._handle.shares_quotas:
                self.keep(key, FIRST_PANEL, billed_bytes, raw_bytes)
            self._db.execute("DELETE FROM alias WHERE username = ?", (username,))

    def passed_alone(self, key: str, names: Collection[str]) -> Totals | None:
        """Return the totals of unscoped names that are not charged to the panel claiming them.

        None where an earlier version stored nothing.
        """
        released = self._marks(RELEASED + key)
        if released is None:
            return None
        passed = self._passed(key)
        found = [
            (each, passed[each.username])
            for each in self._reported(key)
            if each.username in names and each.username in passed
        ]
        return Totals(
            billed_bytes=sum(max(0, mark.total_bytes - it.offset_bytes) for it, mark in found),
            raw_bytes=sum(max(0, mark.raw_bytes - it.raw_offset_bytes) for it, mark in found),
            seqs=tuple((it.username, mark.change_seq) for it, mark in found),
        )

    def _reported(self, key: str) -> list[_Reported]:
        query = (
            "SELECT u.username, u.total_bytes, u.raw_bytes, u.change_seq, "
            "coalesce(a.offset_bytes, 0), coalesce(a.raw_offset_bytes, 0), u.panel "
            "FROM external_usage AS u LEFT JOIN alias AS a ON a.username = u.username "
            "WHERE u.account_key = ? ORDER BY u.username"
        )
        return [
            _Reported(row[0], Mark(*row[1:4]), row[4], row[5], row[6])
            for row in self._db.execute(query, (key,)).fetchall()
        ]

    def _marks(self, meta_key: str) -> dict[str, Mark] | None:
        stored = self._handle.meta(meta_key)
        return None if stored is None else msgspec.json.decode(stored, type=dict[str, Mark])

    def _set_marks(self, meta_key: str, marks: dict[str, Mark]) -> None:
        self._handle.set_meta(meta_key, msgspec.json.encode(marks).decode())
