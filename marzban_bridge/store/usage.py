"""External usage as read from the feed; `placement` assigns it to accounts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from marzban_bridge.feed.ledger_runs import WriterRun
from marzban_bridge.quota.usage import NOTHING, CorrectedName, Seqs, Totals, UsageChange
from marzban_bridge.store.handle import OF_KEYS, StoreHandle, keys_json
from marzban_bridge.store.names.corrections import CORRECTED, Corrections
from marzban_bridge.store.names.placement import DENIED, RELEASED, Placement
from marzban_bridge.store.usage_sums import bounded, capped_sum, sum_of

_SUM_USAGE = (
    f"SELECT {sum_of('total_bytes')}, {sum_of('raw_bytes')} "
    "FROM counted_usage WHERE account_key = ?"
)


class Usage:
    """External usage as read from the feed, for one panel's accounts."""

    def __init__(self, handle: StoreHandle, panel: str) -> None:
        self._handle = handle
        self._db = handle.db
        self._panel = panel
        self._placement = Placement(handle, panel)
        self._corrections = Corrections(handle)

    @property
    def cursor(self) -> int:
        """The feed sequence number up to which usage has been read."""
        return int(self._handle.meta("feed_cursor") or 0)

    @property
    def runs(self) -> tuple[WriterRun, ...]:
        """The collector's runs that stored what was read, oldest first."""
        return msgspec.json.decode(
            self._handle.meta("feed_runs") or "[]", type=tuple[WriterRun, ...]
        )

    def record(
        self, changes: Sequence[UsageChange], *, cursor: int, runs: Sequence[WriterRun]
    ) -> Mapping[str, list[str]]:
        """Store a page of the feed and its cursor; return the changed account keys by panel."""
        touched: dict[str, dict[str, None]] = {}
        with self._handle.transaction():
            if tuple(runs) != self.runs:
                self._handle.set_meta("feed_runs", msgspec.json.encode(runs).decode())
            rows = []
            for each in changes:
                panel, key = self._placement.place_reported(each.username)
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
            self._corrections.note(changes)
            self._handle.set_meta("feed_cursor", str(cursor))
        if self._handle.shares_quotas:
            everybody = {key: None for keys in touched.values() for key in keys}
            touched = dict.fromkeys(self._handle.panels, everybody)
        for panel, keys in touched.items():
            self._handle.on_change(panel, list(keys))
        return {panel: list(keys) for panel, keys in touched.items()}

    def forget(self, *, ledger_id: str) -> None:
        """Delete all usage read so far, to read the feed of the named ledger from its start."""
        with self._handle.transaction():
            self._db.execute("DELETE FROM external_usage")
            for prefix in (CORRECTED, DENIED, RELEASED):
                self._handle.delete_metas(prefix)
            self._handle.set_meta("feed_cursor", "0")
            self._handle.set_meta("feed_runs", "[]")
            self._handle.set_meta("ledger_id", ledger_id)

    def corrected_names(self) -> list[str]:
        """Return the reported names with corrections."""
        return self._corrections.names()

    def corrected_name(self, username: str) -> CorrectedName | None:
        """Return the assignment of a corrected name; None if no usage of it is stored."""
        query = "SELECT panel, account_key, change_seq FROM external_usage WHERE username = ?"
        row = self._db.execute(query, (username,)).fetchone()
        told = self._corrections.of(username)
        if row is None or told is None:
            return None
        return CorrectedName(
            username=username,
            panel=row[0],
            key=row[1],
            through_seq=row[2],
            corrected_seq=told.seq,
            counted_from_seq=self._corrections.counted_from(username),
        )

    def names_to_correct(self, key: str) -> list[str]:
        """Return the reported names of an account that have corrections."""
        return [name for name in self.reported_names(key) if self._corrections.of(name)]

    def keys_reported_after(self, change_seq: int) -> list[str]:
        """Return the account keys with usage that was read after a change number."""
        query = "SELECT DISTINCT account_key FROM external_usage WHERE change_seq > ?"
        if self._handle.shares_quotas:
            rows = self._db.execute(query, (change_seq,))
        else:
            rows = self._db.execute(f"{query} AND panel = ?", (change_seq, self._panel))
        return [row[0] for row in rows]

    def totals(self, key: str) -> Totals:
        """Return the external totals of an account, across periods and under all its names.

        With a shared quota they include usage on the other panels.
        """
        return self.shared_totals(key) if self._handle.shares_quotas else self.own_totals(key)

    def totals_of(self, keys: Collection[str]) -> dict[str, Totals]:
        """Return the same of some accounts, by two queries unless they share quotas."""
        if self._handle.shares_quotas:
            return {key: self.shared_totals(key) for key in keys}
        found: dict[str, list[tuple[int, int]]] = {key: [] for key in keys}
        seqs: dict[str, list[tuple[str, int]]] = {key: [] for key in keys}
        values = (self._panel, keys_json(keys))
        reported = (
            "SELECT u.account_key, u.username, u.change_seq, "
            "u.total_bytes - coalesce(a.offset_bytes, 0), "
            "u.raw_bytes - coalesce(a.raw_offset_bytes, 0) FROM external_usage AS u "
            "LEFT JOIN alias AS a ON a.username = u.username "
            f"WHERE u.panel = ? AND u.account_key {OF_KEYS} ORDER BY u.username"
        )
        for key, username, change_seq, *totals in self._db.execute(reported, values).fetchall():
            seqs[key].append((username, change_seq))
            found[key].append((totals[0], totals[1]))
        kept = (
            "SELECT account_key, total_bytes, raw_bytes FROM kept_usage "
            f"WHERE panel = ? AND account_key {OF_KEYS}"
        )
        for key, total_bytes, raw_bytes in self._db.execute(kept, values).fetchall():
            found[key].append((total_bytes, raw_bytes))
        return {
            key: Totals(
                billed_bytes=capped_sum([billed for billed, _ in found[key]]),
                raw_bytes=capped_sum([raw for _, raw in found[key]]),
                seqs=tuple(seqs[key]),
            )
            for key in keys
        }

    def own_totals(self, key: str, *, panel: str = "") -> Totals:
        """Return the totals charged to this panel's user only, or to that of `panel`."""
        panel = panel or self._panel
        row = self._db.execute(f"{_SUM_USAGE} AND panel = ?", (key, panel)).fetchone()
        return Totals(billed_bytes=row[0], raw_bytes=row[1], seqs=self._seqs(key, panel=panel))

    def shared_totals(self, key: str) -> Totals:
        """Return the totals of a shared quota: external usage, and that of the other panels."""
        row = self._db.execute(_SUM_USAGE, (key,)).fetchone()
        other_bytes = self._db.execute(
            f"SELECT (SELECT {sum_of('lifetime_panel_bytes')} FROM account "
            "WHERE account_key = :key AND panel <> :panel) + coalesce((SELECT departed_bytes "
            "FROM shared_quota WHERE account_key = :key), 0)",
            {"key": key, "panel": self._panel},
        ).fetchone()[0]
        return Totals(
            billed_bytes=bounded(row[0] + other_bytes),
            raw_bytes=bounded(row[1] + other_bytes),
            seqs=self._seqs(key),
        )

    def unscoped_totals(self, key: str) -> Totals:
        """Return the totals of the unscoped name that are charged to this panel's user."""
        if self._handle.shares_quotas or len(self._handle.known_panels) == 1:
            return NOTHING
        rows = self._db.execute(
            "SELECT u.username, u.total_bytes - coalesce(a.offset_bytes, 0), "
            "u.raw_bytes - coalesce(a.raw_offset_bytes, 0) FROM external_usage AS u "
            "LEFT JOIN alias AS a ON a.username = u.username "
            "WHERE u.account_key = :key AND u.panel = :panel "
            "UNION ALL SELECT '', total_bytes, raw_bytes FROM kept_usage "
            "WHERE account_key = :key AND panel = :panel",
            {"key": key, "panel": self._panel},
        )
        alone = [row[1:] for row in rows if self._placement.is_alone(row[0])]
        return Totals(
            billed_bytes=sum(billed for billed, _ in alone), raw_bytes=sum(raw for _, raw in alone)
        )

    def totals_of_no_user(self, key: str) -> Totals:
        """Return the totals of a name that are assigned to panels without such a user."""
        without_user = (
            "AS u WHERE account_key = ? AND NOT EXISTS (SELECT 1 FROM account AS a "
            "WHERE a.account_key = u.account_key AND a.panel = u.panel)"
        )
        billed_bytes, raw_bytes = self._db.execute(
            f"SELECT {sum_of('total_bytes')}, {sum_of('raw_bytes')} "
            f"FROM counted_usage {without_user}",
            (key,),
        ).fetchone()
        seqs = self._db.execute(
            f"SELECT username, change_seq FROM external_usage {without_user}", (key,)
        ).fetchall()
        return Totals(billed_bytes=billed_bytes, raw_bytes=raw_bytes, seqs=tuple(seqs))

    def _seqs(self, key: str, *, panel: str = "") -> Seqs:
        """Return an account's reported names, and the change numbers read so far."""
        is_everywhere = self._handle.shares_quotas and not panel
        of_panel = "" if is_everywhere else " AND panel = ?"
        rows = self._db.execute(
            f"SELECT username, change_seq FROM external_usage WHERE account_key = ?{of_panel} "
            "ORDER BY username",
            (key, panel or self._panel) if of_panel else (key,),
        )
        return tuple(rows.fetchall())

    def total_bytes(self, key: str) -> int:
        """Return the billed external bytes of an account, across periods."""
        return self.totals(key).billed_bytes

    def reported_names(self, key: str) -> list[str]:
        """Return the names under which an account was reported, the latest first."""
        of_panel = "" if self._handle.shares_quotas else " AND panel = ?"
        rows = self._db.execute(
            f"SELECT username FROM external_usage WHERE account_key = ?{of_panel} "
            "ORDER BY change_seq DESC",
            (key, self._panel) if of_panel else (key,),
        )
        return [row[0] for row in rows]
