"""The part of the store that says who used how much elsewhere, and whose it is.

What is reported as `two/alice` is panel two's. A name alone is the first panel's until that panel
is known not to have it; then it is offered to the next ones in their order, and the first that has
it keeps it, until it deletes the user.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from marzban_bridge.accounts import account_key
from marzban_bridge.history import Run
from marzban_bridge.panel_names import FIRST_PANEL, take_apart, without_panel
from marzban_bridge.store_handle import StoreHandle
from marzban_bridge.usage import Totals, UsageChange

_SUM_USAGE = (
    "SELECT coalesce(sum(total_bytes), 0), coalesce(sum(raw_bytes), 0) "
    "FROM external_usage WHERE account_key = ?"
)


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
                panel, key = self._place_of(each.username)
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
            self._handle.set_meta("feed_cursor", str(cursor))
        if self._handle.shares_quotas:
            everybody = {key: None for keys in touched.values() for key in keys}
            touched = dict.fromkeys(self._handle.panels, everybody)
        for panel, keys in touched.items():
            self._handle.on_change(panel, list(keys))
        return {panel: list(keys) for panel, keys in touched.items()}

    def _place_of(self, username: str) -> tuple[str, str]:
        """Return for which panel, and for which of its names, a reported name counts."""
        name = take_apart(username, panels=self._handle.known_panels)
        if name.panel is not None:
            return name.panel, name.key
        if len(self._handle.known_panels) == 1:
            return FIRST_PANEL, name.key
        query = "SELECT panel FROM placement WHERE account_key = ? AND NOT is_released"
        row = self._db.execute(query, (name.key,)).fetchone()
        return (row[0] if row else FIRST_PANEL), name.key

    def _place_anew(self) -> None:
        """Count what was read for the panels it is for, after others were configured.

        What was reported of a name that nobody had is no use of a user of a new panel.
        """
        self._db.execute(
            "INSERT OR IGNORE INTO placement (account_key, panel, is_released) "
            "SELECT account_key, panel, 1 FROM orphan WHERE panel = ?",
            (FIRST_PANEL,),
        )
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
                "INSERT OR IGNORE INTO orphan (account_key, panel, username, first_seen_at) "
                "SELECT ?, ?, username, first_seen_at FROM orphan "
                "WHERE account_key = ? AND panel = ?",
                (wanted[1], wanted[0], key, panel),
            )
            self._db.execute("DELETE FROM orphan WHERE account_key = ? AND panel = ?", (key, panel))

    def forget_usage(self, *, ledger_id: str) -> None:
        """Drop all usage read so far, to read it anew from the named ledger."""
        with self._handle.transaction():
            self._db.execute("DELETE FROM external_usage")
            self._handle.set_meta("feed_cursor", "0")
            self._handle.set_meta("feed_runs", "[]")
            self._handle.set_meta("ledger_id", ledger_id)

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
        return self._shared_totals(key) if self._handle.shares_quotas else self._own_totals(key)

    def _own_totals(self, key: str) -> Totals:
        row = self._db.execute(f"{_SUM_USAGE} AND panel = ?", (key, self.panel)).fetchone()
        return Totals(billed_bytes=row[0], raw_bytes=row[1])

    def _shared_totals(self, key: str) -> Totals:
        row = self._db.execute(_SUM_USAGE, (key,)).fetchone()
        other_bytes = self._db.execute(
            "SELECT (SELECT coalesce(sum(odometer_bytes), 0) FROM account "
            "WHERE account_key = ?1 AND panel <> ?2) + coalesce((SELECT departed_bytes "
            "FROM shared_quota WHERE account_key = ?1), 0)",
            (key, self.panel),
        ).fetchone()[0]
        return Totals(billed_bytes=row[0] + other_bytes, raw_bytes=row[1] + other_bytes)

    def total_bytes(self, key: str) -> int:
        """Return what an account's external usage since for ever counts for."""
        return self.totals(key).billed_bytes

    def spellings(self, key: str) -> list[str]:
        """Return the names as reported for an account key, without a panel's, the latest first."""
        if self._handle.shares_quotas:
            panels: Sequence[str] = tuple(self._handle.known_panels)
        else:
            is_offered = self.is_offered(key)
            panels = (self.panel, FIRST_PANEL) if is_offered else (self.panel,)
        rows = self._db.execute(
            "SELECT username FROM external_usage WHERE account_key = ? "
            f"AND panel IN ({', '.join('?' * len(panels))}) ORDER BY change_seq DESC",
            (key, *panels),
        )
        names = (without_panel(row[0], panels=self._handle.known_panels) for row in rows)
        return list(dict.fromkeys(names))

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

    def _release(self, key: str) -> None:
        """Have a name alone be nobody's; whoever is called so next did not use what was used."""
        if self._handle.shares_quotas or len(self._handle.known_panels) == 1:
            return
        if self.panel != FIRST_PANEL:
            query = "SELECT 1 FROM placement WHERE account_key = ? AND panel = ?"
            if self._db.execute(query, (key, self.panel)).fetchone() is None:
                return
            self._move_alone(key, source=self.panel, target=FIRST_PANEL)
        self._db.execute(
            "INSERT OR REPLACE INTO placement (account_key, panel, is_released) VALUES (?, ?, 1)",
            (key, self.panel),
        )

    def _move_alone(self, key: str, *, source: str, target: str) -> None:
        """Move what was reported under the name alone, and not under a panel's."""
        names = self._db.execute(
            "SELECT username FROM external_usage WHERE account_key = ? AND panel = ?", (key, source)
        ).fetchall()
        self._db.executemany(
            "UPDATE external_usage SET panel = ? WHERE username = ?",
            [(target, name) for (name,) in names if account_key(name) == key],
        )
