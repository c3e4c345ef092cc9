"""Whose a reported name is: for which panel, and for which of its users, it counts.

| reported | what the store knows | it counts for |
|---|---|---|
| `two/alice` | a panel `two` | the `alice` of `two` |
| `two/alice` | no such panel | a user named `two/alice`, as a name alone |
| `alice` | one panel | its `alice` |
| `alice` | several panels, which share quotas | all users of the name, as the first panel's |
| `alice` | nothing else of the name | the first panel |
| `alice` | `two` claimed it | `two` |
| `alice` | `two` deleted the user, and so released it | the first panel again |
| any | an alias of the name | the user who is called the same without case |

A name alone is *unclaimed* for a panel while all panels before it, in order, are known to have no
such user; the panel claims it once it has one. Who claims a released name begins behind what was
reported until then (`openings`).

`placement` holds claims and releases, `orphan` which panel was asked for a name and has no such
user, `alias` the names of other spelling. `unknown_names` decides on claims and aliases; where a
name counts afterwards is said here alone. What was reported is kept with its place
(`external_usage`), and moved when the place changes.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from marzban_bridge.panels.names import (
    FIRST_PANEL,
    ReportedName,
    account_key,
    folded,
    owner_of,
    scoped,
    take_apart,
)
from marzban_bridge.store.handle import StoreHandle, to_millis

DENIED = "denied:"
"""Before a panel and a name: what was reported of the name when the panel last did not have it."""
RELEASED = "released:"
"""Before a name: what was reported of it alone when it was last released."""


def denied_key(panel: str, key: str) -> str:
    """Return under which key that is kept."""
    return f"{DENIED}{panel}:{key}"


class Placement:
    """Whose reported names are, as one panel asks."""

    def __init__(self, handle: StoreHandle, panel: str) -> None:
        self._handle = handle
        self._db = handle.db
        self._panel = panel

    def take_apart(self, username: str) -> ReportedName:
        """Tell a panel that is known from a user in a reported name."""
        return take_apart(username, panels=self._handle.known_panels)

    def is_alone(self, username: str) -> bool:
        """Tell whether a name was reported without a panel's."""
        return self.take_apart(username).panel is None

    def is_for_any_panel(self, name: ReportedName) -> bool:
        """Tell whether a reported name may be a user's of any panel."""
        return name.panel is None or self._handle.shares_quotas

    def place_of(self, username: str) -> tuple[str, str]:
        """Return for which panel, and for which of its names, a reported name counts."""
        name = self.take_apart(username)
        query = "SELECT account_key FROM alias WHERE username = ?"
        row = self._db.execute(query, (username,)).fetchone()
        key = name.key if row is None else str(row[0])
        return name.panel or self.panel_of(key), key

    def place_reported(self, username: str) -> tuple[str, str]:
        """Do the same for a report; where a panel is named that was asked already, it is decided.

        A name alone that no panel has is listed as unknown. What is reported for one panel is not,
        and counts from its first byte.
        """
        panel, key = self.place_of(username)
        name = self.take_apart(username)
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

    def panel_of(self, key: str) -> str:
        """Return the panel for which a name alone counts."""
        if len(self._handle.known_panels) == 1:
            return FIRST_PANEL
        query = "SELECT panel FROM placement WHERE account_key = ? AND NOT is_released"
        row = self._db.execute(query, (key,)).fetchone()
        return str(row[0]) if row else FIRST_PANEL

    def has_name(self, key: str) -> bool:
        """Tell whether what is reported under a name alone counts for this panel."""
        return self.panel_of(key) == self._panel

    def public_name(self, username: str) -> str:
        """Return what a user is called outside its panel: as it is reported alone, or scoped."""
        if self._panel == FIRST_PANEL:
            return username
        query = "SELECT 1 FROM placement WHERE account_key = ? AND panel = ? AND NOT is_released"
        placed = self._db.execute(query, (account_key(username), self._panel)).fetchone()
        return username if placed else scoped(self._panel, username)

    def keys(self, *, after: str = "", limit: int = 100) -> list[str]:
        """Return a page, in order, of the names that concern the panel.

        Those are the names with external usage or an account, and those that are unclaimed for it.
        Where quotas are shared, every name concerns every panel, and so do those of users on
        several panels that nothing was reported of.
        """
        of_panel = "" if self._handle.shares_quotas else " AND panel = ?3"
        query = (
            f"SELECT account_key FROM external_usage WHERE account_key > ?1{of_panel} "
            f"UNION SELECT account_key FROM account WHERE account_key > ?1{of_panel} "
            "UNION SELECT account_key FROM gone_account WHERE account_key > ?1 AND panel = ?3 "
        )
        if self._handle.shares_quotas:
            query += "UNION SELECT account_key FROM namesake WHERE account_key > ?1 "
        elif self._panel != FIRST_PANEL:
            query += f"UNION {self._unclaimed()} AND o.account_key > ?1 "
        arguments = (after, limit, self._panel)
        rows = self._db.execute(f"{query}ORDER BY account_key LIMIT ?2", arguments)
        return [row[0] for row in rows]

    def is_known(self, key: str) -> bool:
        """Tell whether the name has an account, or is reported and may be this panel's."""
        of_panel = "" if self._handle.shares_quotas else " AND panel = ?2"
        query = (
            "SELECT 1 FROM account WHERE account_key = ?1 AND panel = ?2 "
            "UNION ALL SELECT 1 FROM gone_account WHERE account_key = ?1 AND panel = ?2 "
            f"UNION ALL SELECT 1 FROM external_usage WHERE account_key = ?1{of_panel}"
        )
        found = self._db.execute(query, (key, self._panel)).fetchone()
        return found is not None or self.is_unclaimed(key)

    def is_unclaimed(self, key: str) -> bool:
        """Tell whether a name alone is this panel's if it has such a user.

        It is where all panels before this one are known not to have it.
        """
        if self._panel == FIRST_PANEL or self._handle.shares_quotas:
            return False
        if self._panel not in self._handle.panels:
            return False
        query = f"{self._unclaimed()} AND o.account_key = ?"
        return self._db.execute(query, (key,)).fetchone() is not None

    def _unclaimed(self) -> str:
        """Select the names that are unclaimed for this panel; panel names are safe as literals."""
        before = self._handle.panels[1 : self._handle.panels.index(self._panel)]
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

    def is_missing(self, key: str) -> bool:
        """Tell whether the panel is known not to have this name."""
        query = "SELECT 1 FROM orphan WHERE account_key = ? AND panel = ?"
        return self._db.execute(query, (key, self._panel)).fetchone() is not None

    def note_missing(self, key: str, username: str, at: datetime, *, panel: str = "") -> None:
        """Note that this panel, or another one, does not have a name."""
        self._db.execute(
            "INSERT OR IGNORE INTO orphan (account_key, panel, username, first_seen_at, folded, "
            "candidates) VALUES (?, ?, ?, ?, ?, '[]')",
            (key, panel or self._panel, username, to_millis(at), folded(key)),
        )

    def note_found(self, key: str) -> None:
        """Note that the panel has a name."""
        statement = "DELETE FROM orphan WHERE account_key = ? AND panel = ?"
        if self._db.execute(statement, (key, self._panel)).rowcount:
            self._handle.delete_meta(denied_key(self._panel, key))

    def place(self, key: str, *, source: str, target: str) -> list[str]:
        """Count a name alone for one panel, and not for another; return how it was reported."""
        names = self._move_alone(key, source=source, target=target)
        self._db.execute("INSERT OR REPLACE INTO placement VALUES (?, ?, 0)", (key, target))
        return names

    def release(self, key: str) -> None:
        """Count a name alone, which is this panel's, for the first panel again."""
        if self._panel != FIRST_PANEL:
            self._move_alone(key, source=self._panel, target=FIRST_PANEL)
        self._db.execute("INSERT OR REPLACE INTO placement VALUES (?, ?, 1)", (key, self._panel))

    def release_all(self) -> None:
        """Have this panel, which is forgotten, own no name alone."""
        released = "UPDATE placement SET is_released = 1 WHERE panel = ?"
        self._db.execute(released, (self._panel,))

    def own_names(self) -> list[str]:
        """Return the names alone that this panel has claimed."""
        query = "SELECT account_key FROM placement WHERE panel = ? AND NOT is_released"
        return [row[0] for row in self._db.execute(query, (self._panel,)).fetchall()]

    def _move_alone(self, key: str, *, source: str, target: str) -> list[str]:
        """Move what was reported under the name alone, not under a panel's; return those names."""
        rows = self._db.execute(
            "SELECT username FROM external_usage WHERE account_key = ? AND panel = ?", (key, source)
        ).fetchall()
        names = [name for (name,) in rows if self.is_alone(name)]
        self._db.executemany(
            "UPDATE external_usage SET panel = ? WHERE username = ?",
            [(target, name) for name in names],
        )
        return names

    def place_again(self) -> None:
        """Count all that was read for the panels it is for, of those that are known now."""
        for username, key, panel in self._db.execute(
            "SELECT username, account_key, panel FROM external_usage"
        ).fetchall():
            wanted = self.place_of(username)
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
