"""The part of the store that says for which user a name counts that no panel spells so.

`panel_names.owner_of` is the rule. What it decides is kept as an alias of the reported name, and
stands until a panel has a user of exactly that name: from then on its usage is that user's, and
what was counted before stays where it was counted. An alias has an offset, the part of the name's
total that does not count for its user. No account is touched: its user may be settled meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

import msgspec

from marzban_bridge.panels.dialect import Dialect
from marzban_bridge.panels.names import (
    FIRST_PANEL,
    ReportedName,
    folded,
    owner_of,
    scoped,
    take_apart,
)
from marzban_bridge.quota.account import Event
from marzban_bridge.store.gone_accounts import GoneBooks
from marzban_bridge.store.usage import COUNTED_FROM


class NameBooks(GoneBooks):
    """Reported names beside the accounts of one panel's users."""

    def record_unknown(
        self,
        key: str,
        *,
        candidates: Collection[str] | None,
        at: datetime,
        dialect: Dialect | None = None,
    ) -> list[str]:
        """Note that the panel has no user of a reported name, only these, equal without case.

        `candidates` None: those that were noted before. `dialect`: the rule that names no user so.
        Where the rule says whose the name is, it counts for that user from now on, but not what was
        reported while it was listed as unknown. Otherwise it is listed, with an event, once no
        panel has it. Returns the accounts that got a name. Of a name that is none any more, because
        it has been found to be a user's meanwhile, nothing is noted.
        """
        if not self.is_known(key):
            return []
        with self._handle.transaction():
            was_listed = self._listed_by(key)
            self._insert_orphan(key, key, at)
            self._deny(key)
            if candidates is not None:
                self._db.execute(
                    "UPDATE orphan SET candidates = ? WHERE account_key = ? AND panel = ?",
                    (msgspec.json.encode(sorted(candidates)).decode(), key, self.panel),
                )
            owners = self._match(key, was_listed, at=at)
            news = self._listed_by(key) - was_listed
            for panel in news:
                self._insert_events(key, [self._unknown_event(key, dialect)], at, panel=panel)
        if news or owners:
            self._handle.on_change(self.panel, owners)
        return owners

    def is_unknown(self, key: str) -> bool:
        """Tell whether a reported name is listed as no user's."""
        return bool(self._listed_by(key))

    def _unknown_event(self, key: str, dialect: Dialect | None) -> Event:
        who = "the panel does" if len(self._handle.panels) == 1 else "its panels do"
        text = f"traffic is reported for a name {who} not know"
        names = [
            scoped(panel, name) for panel, has in self._candidates(key).items() for name in has
        ]
        if names:
            text += f"; names are case-sensitive: report it as {' or as '.join(names)}"
        elif dialect:
            text += f", and no user of {dialect.panel} can have: {dialect.rule}"
        return Event(kind="orphan", text=text)

    def _candidates(self, key: str) -> dict[str, list[str]]:
        """Return the users equal without case, by panel that has none of exactly this name."""
        query = "SELECT panel, candidates FROM orphan WHERE account_key = ? ORDER BY panel"
        rows = self._db.execute(query, (key,)).fetchall()
        return {panel: msgspec.json.decode(names, type=list[str]) for panel, names in rows}

    def _match(self, key: str, was_listed: Collection[str], *, at: datetime) -> list[str]:
        """Have the names that count as an unknown one count for the users whose they are."""
        found = self._candidates(key)
        is_known_nowhere = all(panel in found for panel in self._handle.panels)
        everywhere = [name for names in found.values() for name in names]
        matched: dict[str, None] = {}
        query = "SELECT username FROM external_usage WHERE account_key = ?"
        for (username,) in self._db.execute(query, (key,)).fetchall():
            name = self._take_apart(username)
            names: Sequence[str] = everywhere if is_known_nowhere else ()
            if not self._is_anywhere(name):
                names = found.get(name.panel or "", ())
            owner = owner_of(name.key, names)
            if owner is None or owner == key:
                continue
            if self._is_anywhere(name):
                self._offer(owner, [panel for panel, has in found.items() if owner in has], at)
            listed_for = FIRST_PANEL if self._is_anywhere(name) else name.panel
            is_past = listed_for in was_listed
            stays = is_past and self._is_kept(key)
            counted_bytes = self._move_name(username, owner, is_past=is_past, stays=stays)
            text = (
                f"there is no user {name.key}: what is reported as {username} counts for {owner}, "
                f"the only one called so without regard to case; {counted_bytes} bytes so far"
            )
            self._insert_events(owner, [Event(kind="name_matched", text=text)], at)
            matched[owner] = None
        if matched and self._db.execute(query, (key,)).fetchone() is None:
            self._db.execute("DELETE FROM orphan WHERE account_key = ?", (key,))
        return list(matched)

    def _is_kept(self, key: str) -> bool:
        """Tell whether an account that may count again goes by what was reported of this name."""
        query = "SELECT 1 FROM gone_account WHERE account_key = ?"
        return self._db.execute(query, (key,)).fetchone() is not None

    def _take_apart(self, username: str) -> ReportedName:
        return take_apart(username, panels=self._handle.known_panels)

    def _is_anywhere(self, name: ReportedName) -> bool:
        """Tell whether a reported name may be a user's of any panel."""
        return name.panel is None or self._handle.shares_quotas

    def _offer(self, owner: str, panels: Collection[str], at: datetime) -> None:
        """Have a user's name alone be asked for on the first panel that has the user."""
        if self._handle.shares_quotas or self.placed_on(owner) != FIRST_PANEL:
            return
        for panel in self._handle.panels:
            if panel in panels:
                return
            self._insert_orphan(owner, owner, at, panel=panel)
            self._deny(owner, panel=panel)

    def _move_name(self, username: str, key: str, *, is_past: bool, stays: bool = False) -> int:
        """Count a reported name for another account; return how much of it counts there.

        `is_past`: what was reported until now does not. `stays`: it goes on to count where it did.
        """
        query = (
            "SELECT u.account_key, u.panel, u.total_bytes, u.raw_bytes, u.change_seq, "
            "coalesce(a.offset_bytes, 0), coalesce(a.raw_offset_bytes, 0) FROM external_usage AS u "
            "LEFT JOIN alias AS a ON a.username = u.username WHERE u.username = ?"
        )
        row = self._db.execute(query, (username,)).fetchone()
        old_key, old_panel, total_bytes, raw_bytes, change_seq, *offsets = row
        offset_bytes, raw_offset_bytes = offsets
        if stays:
            self._keep(old_key, old_panel, total_bytes - offset_bytes, raw_bytes - raw_offset_bytes)
        if is_past:
            offset_bytes, raw_offset_bytes = total_bytes, raw_bytes
            self._handle.set_meta(COUNTED_FROM + username, str(change_seq))
        name = self._take_apart(username)
        self._db.execute(
            "INSERT OR REPLACE INTO alias (username, account_key, folded, offset_bytes, "
            "raw_offset_bytes) VALUES (?, ?, ?, ?, ?)",
            (username, key, folded(name.key), offset_bytes, raw_offset_bytes),
        )
        panel = name.panel or self.placed_on(key)
        self._db.execute(
            "UPDATE external_usage SET account_key = ?, panel = ? WHERE username = ?",
            (key, panel, username),
        )
        return int(total_bytes - offset_bytes)

    def aliases_of(self, keys: Iterable[str]) -> list[str]:
        """Return the names, spelt otherwise, that count for these accounts and may be users."""
        found: dict[str, None] = {}
        for key in keys:
            query = "SELECT username FROM alias WHERE account_key = ?"
            for (username,) in self._db.execute(query, (key,)):
                name = self._take_apart(username)
                is_here = self._is_anywhere(name) or name.panel == self.panel
                if name.key != key and is_here:
                    found[name.key] = None
        return list(found)

    def part(self, name: str, *, at: datetime) -> bool:
        """Have a reported name count for the user of exactly that name, whom the panel has.

        What was counted until now stays where it was counted. Returns whether it was another's.
        """
        query = (
            "SELECT a.username, a.account_key FROM alias AS a JOIN external_usage AS u "
            "ON u.username = a.username WHERE a.folded = ? AND a.account_key <> ?"
        )
        is_news = False
        with self._handle.transaction():
            for username, owner in self._db.execute(query, (folded(name), name)).fetchall():
                reported = self._take_apart(username)
                is_here = self._is_anywhere(reported) or reported.panel == self.panel
                if reported.key != name or not is_here:
                    continue
                if self._is_anywhere(reported):
                    self._offer(name, [self.panel], at)
                before = self._counted_bytes(username)
                self._move_name(username, name, is_past=True, stays=True)
                text = (
                    f"there is a user {name} now: what is reported as {username} counts for it "
                    f"from here on; the {before} bytes until now stay with {owner}"
                )
                self._insert_events(owner, [Event(kind="name_parted", text=text)], at)
                is_news = True
        if is_news:
            self._handle.on_change(self.panel, ())
        return is_news

    def _counted_bytes(self, username: str) -> int:
        query = (
            "SELECT u.total_bytes - coalesce(a.offset_bytes, 0) FROM external_usage AS u "
            "LEFT JOIN alias AS a ON a.username = u.username WHERE u.username = ?"
        )
        return int(self._db.execute(query, (username,)).fetchone()[0])

    def place_of(self, username: str) -> tuple[str, str]:
        """Return the panel and the account for which a name counts, as it is reported."""
        return self._place_of(username)

    def keys_of_name(self, name: str) -> list[str]:
        """Return the accounts and reported names that news of a panel's user of a name concerns."""
        rows = self._db.execute(
            "SELECT account_key FROM orphan WHERE folded = ?1 AND panel = ?2 "
            "UNION SELECT account_key FROM alias WHERE folded = ?1",
            (folded(name), self.panel),
        ).fetchall()
        keys = [name] if self.is_known(name) else []
        return list(dict.fromkeys([*keys, *(row[0] for row in rows)]))

    def _drop_accounts(self) -> int:
        """Drop the panel's accounts for good; return how many there were.

        What their users used of a shared quota stays used, and so does what was reported of them
        for the panel by name.
        """
        keys = [account.key for account in self.accounts()]
        for key in keys:
            self._depart(key)
            self._db.execute(
                "DELETE FROM account WHERE account_key = ? AND panel = ?", (key, self.panel)
            )
        placed = "SELECT account_key FROM placement WHERE panel = ? AND NOT is_released"
        for (key,) in self._db.execute(placed, (self.panel,)).fetchall():
            self._release(key)
        reported = (
            "SELECT u.username, u.account_key, u.total_bytes - coalesce(a.offset_bytes, 0), "
            "u.raw_bytes - coalesce(a.raw_offset_bytes, 0) FROM external_usage AS u "
            "LEFT JOIN alias AS a ON a.username = u.username WHERE u.panel = ?"
        )
        for username, key, billed_bytes, raw_bytes in self._db.execute(
            reported, (self.panel,)
        ).fetchall():
            if self._take_apart(username).panel != self.panel:
                continue
            if self._handle.shares_quotas:
                self._keep(key, FIRST_PANEL, billed_bytes, raw_bytes)
            self._db.execute("DELETE FROM alias WHERE username = ?", (username,))
        return len(keys)
