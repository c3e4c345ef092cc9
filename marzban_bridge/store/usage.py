"""The part of the store that says who used how much elsewhere, and whose it is.

What is reported as `two/alice` is panel two's. A name alone is the first panel's until that panel
is known not to have it; then it is offered to the next ones in their order, and the first that has
it keeps it, until it deletes the user. A name that no panel spells so may count for the user who is
called the same without case: `name_books` decides that, and it is kept as an alias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from marzban_bridge.feed.ledger_runs import Run
from marzban_bridge.panels.names import FIRST_PANEL, folded, owner_of, take_apart
from marzban_bridge.quota.usage import CorrectedName, Seqs, Totals, UsageChange
from marzban_bridge.store.handle import StoreHandle
from marzban_bridge.store.usage_sums import bounded, sum_of

_SUM_USAGE = (
    f"SELECT {sum_of('total_bytes')}, {sum_of('raw_bytes')} "
    "FROM counted_usage WHERE account_key = ?"
)


CORRECTED = "corrected:"
"""Before a reported name: what corrections added to it, by the feed."""
COUNTED_FROM = "counted_from:"
"""Before a reported name that counts for another: up to which number it does not."""


class Corrected(msgspec.Struct, frozen=True):
    """What corrections added to a reported name since for ever."""

    seq: int
    billed_bytes: int
    raw_bytes: int


class UsageBooks:
    """External usage as read from the feed, for one panel's accounts."""

    def __init__(self, handle: StoreHandle, panel: str) -> None:
        self._handle = handle
        self._db = handle.db
        self.panel = panel

    @property
    def cursor(self) -> int:
        """The feed sequence number up to which usage has been read."""
        return int(self._handle.meta("feed_cursor") or 0)

    @property
    def runs(self) -> tuple[Run, ...]:
        """The collector's runs that stored what was read, oldest first."""
        return msgspec.json.decode(self._handle.meta("feed_runs") or "[]", type=tuple[Run, ...])

    def record_usage(
        self, changes: Sequence[UsageChange], *, cursor: int, runs: Sequence[Run]
    ) -> Mapping[str, list[str]]:
        """Store a page of the feed with the cursor behind it; return whom it touches, by panel."""
        touched: dict[str, dict[str, None]] = {}
        with self._handle.transaction():
            if tuple(runs) != self.runs:
                self._handle.set_meta("feed_runs", msgspec.json.encode(runs).decode())
            rows = []
            for each in changes:
                panel, key = self._place_reported(each.username)
                touched.setdefault(panel, {})[key] = None
                rows.append(
                    (
                        *(each.username, key, panel),
                        *(each.total_bytes, each.raw_bytes, each.change_seq),
                    )
                )
            self._db.executemany(
                "INSERT OR REPLACE INTO external_usage "
                "(username, account_key, panel, total_bytes, raw_bytes, change_seq) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                rows,
            )
            self._note_corrected(changes)
            self._handle.set_meta("feed_cursor", str(cursor))
        if self._handle.shares_quotas:
            everybody = {key: None for keys in touched.values() for key in keys}
            touched = dict.fromkeys(self._handle.panels, everybody)
        for panel, keys in touched.items():
            self._handle.on_change(panel, list(keys))
        return {panel: list(keys) for panel, keys in touched.items()}

    def _note_corrected(self, changes: Sequence[UsageChange]) -> None:
        """Store what corrections added to names; a ledger that went back may have fewer of them."""
        self._db.executemany(
            "DELETE FROM meta WHERE key = ?",
            [(CORRECTED + each.username,) for each in changes if not each.corrected_seq],
        )
        for each in changes:
            if each.corrected_seq:
                told = Corrected(each.corrected_seq, each.corrected_bytes, each.corrected_raw_bytes)
                key, value = CORRECTED + each.username, msgspec.json.encode(told).decode()
                self._handle.set_meta(key, value)

    def corrected_names(self) -> list[str]:
        """Return the reported names that corrections added something to, or took back."""
        rows = self._db.execute(
            "SELECT substr(key, ?2) FROM meta WHERE substr(key, 1, ?2 - 1) = ?1",
            (CORRECTED, len(CORRECTED) + 1),
        )
        return [row[0] for row in rows]

    def corrected_name(self, username: str) -> CorrectedName | None:
        """Return whose a reported name is that was corrected; None where it is not there."""
        query = "SELECT panel, account_key, change_seq FROM external_usage WHERE username = ?"
        row = self._db.execute(query, (username,)).fetchone()
        told = self._corrected(username)
        if row is None or told is None:
            return None
        return CorrectedName(
            username=username,
            panel=row[0],
            key=row[1],
            through_seq=row[2],
            corrected_seq=told.seq,
            counted_from_seq=self._counted_from(username),
        )

    def _counted_from(self, username: str) -> int:
        return int(self._handle.meta(COUNTED_FROM + username) or 0)

    def _corrected(self, username: str) -> Corrected | None:
        told = self._handle.meta(CORRECTED + username)
        return None if told is None else msgspec.json.decode(told, type=Corrected)

    def _place_of(self, username: str) -> tuple[str, str]:
        """Return for which panel, and for which of its names, a reported name counts."""
        name = take_apart(username, panels=self._handle.known_panels)
        query = "SELECT account_key FROM alias WHERE username = ?"
        row = self._db.execute(query, (username,)).fetchone()
        key = name.key if row is None else str(row[0])
        return name.panel or self.placed_on(key), key

    def _place_reported(self, username: str) -> tuple[str, str]:
        """Do the same for a report; where a panel is named that was asked already, it is decided.

        A name alone that no panel has is listed as unknown. What is reported for one panel is not,
        and counts from its first byte.
        """
        panel, key = self._place_of(username)
        name = take_apart(username, panels=self._handle.known_panels)
        if self._handle.shares_quotas or name.panel is None or key != name.key:
            return panel, key
        query = "SELECT candidates FROM orphan WHERE account_key = ? AND panel = ?"
        row = self._db.execute(query, (key, panel)).fetchone()
        owner = row and owner_of(key, msgspec.json.decode(row[0], type=list[str]))
        query = "SELECT 1 FROM external_usage WHERE username = ?"
        if not owner or self._db.execute(query, (username,)).fetchone():
            return panel, key
        self._db.execute("INSERT INTO alias VALUES (?, ?, ?, 0, 0)", (username, owner, folded(key)))
        return panel, owner

    def placed_on(self, key: str) -> str:
        """Return the panel for which a name alone counts."""
        if len(self._handle.known_panels) == 1:
            return FIRST_PANEL
        query = "SELECT panel FROM placement WHERE account_key = ? AND NOT is_released"
        row = self._db.execute(query, (key,)).fetchone()
        return str(row[0]) if row else FIRST_PANEL

    def _count_again(self) -> None:
        """Count what was read for the panels it is for, of those that are known now."""
        for username, key, panel in self._db.execute(
            "SELECT username, account_key, panel FROM external_usage"
        ).fetchall():
            wanted = self._place_of(username)
            if wanted == (panel, key):
                continue
            self._db.execute(
                "UPDATE external_usage SET panel = ?, account_key = ? WHERE username = ?",
                (*wanted, username),
            )
            self._db.execute(
                "INSERT OR IGNORE INTO orphan (account_key, panel, username, first_seen_at, "
                "folded, candidates) SELECT ?, ?, username, first_seen_at, ?, '[]' FROM orphan "
                "WHERE account_key = ? AND panel = ?",
                (wanted[1], wanted[0], folded(wanted[1]), key, panel),
            )
            self._db.execute("DELETE FROM orphan WHERE account_key = ? AND panel = ?", (key, panel))

    def keys_reported_after(self, change_seq: int) -> list[str]:
        """Return the account keys whose usage, as read, has reports after a seq of the ledger."""
        query = "SELECT DISTINCT account_key FROM external_usage WHERE change_seq > ?"
        if self._handle.shares_quotas:
            rows = self._db.execute(query, (change_seq,))
        else:
            rows = self._db.execute(f"{query} AND panel = ?", (change_seq, self.panel))
        return [row[0] for row in rows]

    def totals(self, key: str) -> Totals:
        """Return what an account's user used elsewhere since for ever, under all its names.

        Where quotas are shared, what was used on the other panels is among it.
        """
        return self._shared_totals(key) if self._handle.shares_quotas else self.own_totals(key)

    def own_totals(self, key: str, *, panel: str = "") -> Totals:
        """Return what was reported for the panel's user alone, or for another panel's."""
        panel = panel or self.panel
        row = self._db.execute(f"{_SUM_USAGE} AND panel = ?", (key, panel)).fetchone()
        return Totals(billed_bytes=row[0], raw_bytes=row[1], seqs=self._seqs(key, panel=panel))

    def _shared_totals(self, key: str) -> Totals:
        row = self._db.execute(_SUM_USAGE, (key,)).fetchone()
        other_bytes = self._db.execute(
            f"SELECT (SELECT {sum_of('odometer_bytes')} FROM account "
            "WHERE account_key = ?1 AND panel <> ?2) + coalesce((SELECT departed_bytes "
            "FROM shared_quota WHERE account_key = ?1), 0)",
            (key, self.panel),
        ).fetchone()[0]
        return Totals(
            billed_bytes=bounded(row[0] + other_bytes),
            raw_bytes=bounded(row[1] + other_bytes),
            seqs=self._seqs(key),
        )

    def _seqs(self, key: str, *, panel: str = "") -> Seqs:
        """Return the names that an account's usage is reported under, and how far it was read."""
        is_everywhere = self._handle.shares_quotas and not panel
        of_panel = "" if is_everywhere else " AND panel = ?2"
        rows = self._db.execute(
            f"SELECT username, change_seq FROM external_usage WHERE account_key = ?1{of_panel} "
            "ORDER BY username",
            (key, panel or self.panel) if of_panel else (key,),
        )
        return tuple(rows.fetchall())

    def total_bytes(self, key: str) -> int:
        """Return what an account's external usage since for ever counts for."""
        return self.totals(key).billed_bytes

    def reported_names(self, key: str) -> list[str]:
        """Return the names under which the collector has an account's usage, the latest first."""
        of_panel = "" if self._handle.shares_quotas else " AND panel = ?2"
        rows = self._db.execute(
            f"SELECT username FROM external_usage WHERE account_key = ?1{of_panel} "
            "ORDER BY change_seq DESC",
            (key, self.panel) if of_panel else (key,),
        )
        return [row[0] for row in rows]

    def is_offered(self, key: str) -> bool:
        """Tell whether a name alone is this panel's if it has such a user.

        It is where all panels before this one are known not to have it.
        """
        if self.panel == FIRST_PANEL or self._handle.shares_quotas:
            return False
        if self.panel not in self._handle.panels:
            return False
        return (
            self._db.execute(f"{self._offers()} AND o.account_key = ?", (key,)).fetchone()
            is not None
        )

    def _offers(self) -> str:
        """Select the names that are offered to this panel; panel names are safe as literals."""
        before = self._handle.panels[1 : self._handle.panels.index(self.panel)]
        return (
            "SELECT o.account_key FROM orphan AS o "
            f"WHERE o.panel = '{FIRST_PANEL}' AND EXISTS (SELECT 1 FROM external_usage AS u "
            f"WHERE u.account_key = o.account_key AND u.panel = '{FIRST_PANEL}' "
            f"AND u.username NOT LIKE '{FIRST_PANEL}/%')"
        ) + "".join(
            " AND EXISTS (SELECT 1 FROM orphan AS p "
            f"WHERE p.account_key = o.account_key AND p.panel = '{each}')"
            for each in before
        )

    def _move_alone(self, key: str, *, source: str, target: str) -> list[str]:
        """Move what was reported under the name alone, not under a panel's; return those names."""
        rows = self._db.execute(
            "SELECT username FROM external_usage WHERE account_key = ? AND panel = ?", (key, source)
        ).fetchall()
        panels = self._handle.known_panels
        names = [name for (name,) in rows if take_apart(name, panels=panels).panel is None]
        self._db.executemany(
            "UPDATE external_usage SET panel = ? WHERE username = ?",
            [(target, name) for name in names],
        )
        return names
