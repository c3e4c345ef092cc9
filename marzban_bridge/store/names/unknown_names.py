"""Unknown names: reported names that no panel which they may belong to has a user of."""

from __future__ import annotations

from marzban_bridge.panels.names import FIRST_PANEL
from marzban_bridge.quota.usage import UnknownName
from marzban_bridge.store.handle import StoreHandle, from_millis
from marzban_bridge.store.usage_sums import sum_of


class UnknownNames:
    """Unknown names, as they are listed for one panel."""

    def __init__(self, handle: StoreHandle, panel: str) -> None:
        self._handle = handle
        self._db = handle.db
        self._panel = panel

    def all(self) -> list[UnknownName]:
        """Return the unknown names with their usage."""
        of_panel = "" if self._handle.shares_quotas else " AND u.panel = o.panel"
        rows = self._db.execute(
            f"SELECT o.username, o.first_seen_at, {sum_of('u.total_bytes')}, "
            f"{sum_of('u.raw_bytes')}, (SELECT gone_at FROM gone_account AS g WHERE "
            "g.account_key = o.account_key AND g.panel = o.panel) FROM (SELECT account_key, "
            f"panel, username, first_seen_at {self._listed()} AND o.panel = ?) AS o "
            f"LEFT JOIN external_usage AS u ON u.account_key = o.account_key{of_panel} "
            "GROUP BY o.account_key ORDER BY 3 DESC",
            (self._panel,),
        )
        return [
            UnknownName(
                username=row[0],
                first_seen_at=from_millis(row[1]),
                total_bytes=row[2],
                raw_bytes=row[3],
                gone_at=None if row[4] is None else from_millis(row[4]),
            )
            for row in rows
        ]

    def count(self) -> int:
        """Return the number of unknown names of this panel."""
        query = f"SELECT count(*) {self._listed()} AND o.panel = ?"
        return int(self._db.execute(query, (self._panel,)).fetchone()[0])

    def _listed(self) -> str:
        """Return the SQL that selects the unknown names; panel names are safe as literals.

        An unscoped name is listed for the first panel. A name reported with another panel's is
        listed for that panel; its other rows only record that it lacks an unscoped name.
        """
        denied = "".join(
            " AND EXISTS (SELECT 1 FROM orphan AS p "
            f"WHERE p.account_key = o.account_key AND p.panel = '{each}')"
            for each in self._handle.panels[1:]
        )
        if self._handle.shares_quotas:
            return f"FROM orphan AS o WHERE o.panel = '{FIRST_PANEL}'{denied}"
        if len(self._handle.panels) == 1:
            return f"FROM orphan AS o WHERE o.panel = '{FIRST_PANEL}'"
        own = (
            "EXISTS (SELECT 1 FROM external_usage AS u WHERE u.account_key = o.account_key "
            "AND u.panel = o.panel AND u.username {}LIKE o.panel || '/%')"
        )
        return (
            f"FROM orphan AS o WHERE ({own.format('')} OR (o.panel = '{FIRST_PANEL}' "
            f"AND {own.format('NOT ')}{denied}))"
        )

    def panels_of(self, key: str) -> set[str]:
        """Return the panels for which a name is listed."""
        query = f"SELECT o.panel {self._listed()} AND o.account_key = ?"
        return {row[0] for row in self._db.execute(query, (key,))}

    def is_listed(self, key: str) -> bool:
        """Tell whether a reported name is listed as unknown."""
        return bool(self.panels_of(key))
