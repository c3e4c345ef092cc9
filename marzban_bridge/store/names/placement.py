"""Assigns a reported name to a panel and to one of its users.

| reported | what the store knows | it is charged to |
|---|---|---|
| `two/alice` | a panel `two` | the `alice` of `two` |
| `two/alice` | no such panel | a user named `two/alice`, as an unscoped name |
| `alice` | one panel | its `alice` |
| `alice` | several panels, which share quotas | all users of the name, as the first panel's |
| `alice` | nothing else of the name | the first panel |
| `alice` | `two` claimed it | `two` |
| `alice` | `two` deleted the user, and so released it | the first panel again |
| any | an alias of the name | the user whose name is equal without case |

An unscoped name (reported without a panel's) is *unclaimed* for a panel while all panels before it,
in order, are known to have no such user; the panel claims it once it has one. The next owner of a
released name starts at zero (`openings`).

Table `placement` has claims and releases, `orphan` the panels that were asked for a name and have
no such user, `alias` the other spellings. `owners` decides on claims and aliases; this module alone
maps a name to its account. Usage is stored with its panel and account (`external_usage`), and
moved when the assignment changes.
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
from marzban_bridge.store.handle import OF_KEYS, StoreHandle, keys_json, to_millis

DENIED = "denied:"
"""Prefix of panel and name: the name's totals when the panel was last found not to have it."""
RELEASED = "released:"
"""Prefix of a name: the totals of the unscoped name when it was last released."""


def denied_key(panel: str, key: str) -> str:
    """Return the key of the totals at the last denial."""
    return f"{DENIED}{panel}:{key}"


class Placement:
    """The assignment of reported names, from the view of one panel."""

    def __init__(self, handle: StoreHandle, panel: str) -> None:
        self._handle = handle
        self._db = handle.db
        self._panel = panel

    def take_apart(self, username: str) -> ReportedName:
        """Split a reported name into a known panel and a user's name."""
        return take_apart(username, panels=self._handle.known_panels)

    def is_alone(self, username: str) -> bool:
        """Tell whether a reported name is unscoped."""
        return self.take_apart(username).panel is None

    def is_for_any_panel(self, name: ReportedName) -> bool:
        """Tell whether a reported name may belong to any panel's user."""
        return name.panel is None or self._handle.shares_quotas

    def place_of(self, username: str) -> tuple[str, str]:
        """Return the panel and the account key that a reported name is charged to."""
        name = self.take_apart(username)
        query = "SELECT account_key FROM alias WHERE username = ?"
        row = self._db.execute(query, (username,)).fetchone()
        key = name.key if row is None else str(row[0])
        return name.panel or self.panel_of(key), key

    def place_reported(self, username: str) -> tuple[str, str]:
        """Assign a name that was reported; an alias is decided at once if the panel was asked.

        An unscoped name that no panel has is listed as unknown. A name with a panel's is not, and
        is charged from its first byte.
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
        """Return the panel to which an unscoped name is charged."""
        if len(self._handle.known_panels) == 1:
            return FIRST_PANEL
        query = "SELECT panel FROM placement WHERE account_key = ? AND NOT is_released"
        row = self._db.execute(query, (key,)).fetchone()
        return str(row[0]) if row else FIRST_PANEL

    def has_name(self, key: str) -> bool:
        """Tell whether an unscoped name is charged to this panel."""
        return self.panel_of(key) == self._panel

    def public_name(self, username: str) -> str:
        """Return a user's public name: unscoped where that is charged to it, else scoped."""
        if self._panel == FIRST_PANEL:
            return username
        query = "SELECT 1 FROM placement WHERE account_key = ? AND panel = ? AND NOT is_released"
        placed = self._db.execute(query, (account_key(username), self._panel)).fetchone()
        return username if placed else scoped(self._panel, username)

    def keys(self, *, after: str = "", limit: int = 100) -> list[str]:
        """Return a page, in order, of the names that a pass over this panel settles.

        These are names with external usage or an account, and names unclaimed for the panel. With
        shared quotas these are the names of all panels, and duplicate names without reports.
        """
        of_panel = "" if self._handle.shares_quotas else " AND panel = :panel"
        query = (
            f"SELECT account_key FROM external_usage WHERE account_key > :after{of_panel} "
            f"UNION SELECT account_key FROM account WHERE account_key > :after{of_panel} "
            "UNION SELECT account_key FROM gone_account "
            "WHERE account_key > :after AND panel = :panel "
        )
        if self._handle.shares_quotas:
            query += "UNION SELECT account_key FROM namesake WHERE account_key > :after "
        elif self._panel != FIRST_PANEL:
            query += f"UNION {self._unclaimed()} AND o.account_key > :after "
        values = {"after": after, "limit": limit, "panel": self._panel}
        rows = self._db.execute(f"{query}ORDER BY account_key LIMIT :limit", values)
        return [row[0] for row in rows]

    def is_known(self, key: str) -> bool:
        """Tell whether the name has an account, or is reported and may be this panel's."""
        of_panel = "" if self._handle.shares_quotas else " AND panel = :panel"
        query = (
            "SELECT 1 FROM account WHERE account_key = :key AND panel = :panel "
            "UNION ALL SELECT 1 FROM gone_account WHERE account_key = :key AND panel = :panel "
            f"UNION ALL SELECT 1 FROM external_usage WHERE account_key = :key{of_panel}"
        )
        found = self._db.execute(query, {"key": key, "panel": self._panel}).fetchone()
        return found is not None or self.is_unclaimed(key)

    def is_unclaimed(self, key: str) -> bool:
        """Tell whether this panel may claim an unscoped name if it has such a user.

        It may where all panels before it are known not to have the user.
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
        """Tell whether the panel is known to have no user of this name."""
        query = "SELECT 1 FROM orphan WHERE account_key = ? AND panel = ?"
        return self._db.execute(query, (key, self._panel)).fetchone() is not None

    def note_missing(self, key: str, username: str, at: datetime, *, panel: str = "") -> None:
        """Record that this panel, or `panel`, has no user of a name."""
        self._db.execute(
            "INSERT OR IGNORE INTO orphan (account_key, panel, username, first_seen_at, folded, "
            "candidates) VALUES (?, ?, ?, ?, ?, '[]')",
            (key, panel or self._panel, username, to_millis(at), folded(key)),
        )

    def note_found(self, *keys: str) -> None:
        """Record that the panel has users of these names."""
        query = f"SELECT account_key FROM orphan WHERE panel = ? AND account_key {OF_KEYS}"
        for (key,) in self._db.execute(query, (self._panel, keys_json(keys))).fetchall():
            statement = "DELETE FROM orphan WHERE account_key = ? AND panel = ?"
            self._db.execute(statement, (key, self._panel))
            self._handle.delete_meta(denied_key(self._panel, key))

    def place(self, key: str, *, source: str, target: str) -> list[str]:
        """Move an unscoped name from one panel to another; return its reported forms."""
        names = self._move_alone(key, source=source, target=target)
        self._db.execute("INSERT OR REPLACE INTO placement VALUES (?, ?, 0)", (key, target))
        return names

    def release(self, key: str) -> None:
        """Release an unscoped name of this panel: it is charged to the first panel again."""
        if self._panel != FIRST_PANEL:
            self._move_alone(key, source=self._panel, target=FIRST_PANEL)
        self._db.execute("INSERT OR REPLACE INTO placement VALUES (?, ?, 1)", (key, self._panel))

    def release_all(self) -> None:
        """Release all unscoped names of this panel, which is forgotten."""
        released = "UPDATE placement SET is_released = 1 WHERE panel = ?"
        self._db.execute(released, (self._panel,))

    def own_names(self) -> list[str]:
        """Return the unscoped names that this panel has claimed."""
        query = "SELECT account_key FROM placement WHERE panel = ? AND NOT is_released"
        return [row[0] for row in self._db.execute(query, (self._panel,)).fetchall()]

    def _move_alone(self, key: str, *, source: str, target: str) -> list[str]:
        """Move the usage of an unscoped name between panels; return its reported forms."""
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
        """Assign all stored usage again, with the panels known now."""
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
