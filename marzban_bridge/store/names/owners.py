"""Assigns reported names that no user has exactly: claims of unscoped names, and aliases.

`panels.names.owner_of` is the rule for names that differ from a user's only by case. Its decision
is stored as an alias and holds until a panel has a user of exactly that name: from then on new
bytes are that user's, and earlier bytes stay where they were charged. An alias has an offset, the
part of the name's total that is not charged to its user. Accounts are not written here, since
their users may be settled at the same time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

import msgspec

from marzban_bridge.panels.dialect import Dialect
from marzban_bridge.panels.names import FIRST_PANEL, folded, owner_of, scoped
from marzban_bridge.quota.account import Account, Event, shifted
from marzban_bridge.quota.usage import Totals, merged
from marzban_bridge.sizes import human_bytes
from marzban_bridge.store.accounts import Accounts
from marzban_bridge.store.events import Events
from marzban_bridge.store.handle import OF_KEYS, StoreHandle, keys_json
from marzban_bridge.store.names.corrections import Corrections
from marzban_bridge.store.names.openings import Openings
from marzban_bridge.store.names.placement import Placement
from marzban_bridge.store.names.unknown_names import UnknownNames
from marzban_bridge.store.usage import Usage


class NameOwners:
    """Claims and aliases of names that one panel was asked for."""

    def __init__(self, handle: StoreHandle, panel: str) -> None:
        self._handle = handle
        self._db = handle.db
        self._panel = panel
        self._accounts = Accounts(handle, panel)
        self._corrections = Corrections(handle)
        self._events = Events(handle, panel)
        self._openings = Openings(handle, panel)
        self._placement = Placement(handle, panel)
        self._unknown = UnknownNames(handle, panel)
        self._usage = Usage(handle, panel)

    def claim(self, key: str, *, at: datetime) -> bool:
        """Claim an unscoped name for this panel, if it is unclaimed; return whether it was.

        Bytes reported until its release, or until this panel was last found not to have the user,
        are not charged: a new account starts after them (`Openings`), and the baseline of an
        existing one moves past them.
        """
        if not self._placement.is_unclaimed(key):
            return False
        query = "SELECT is_released FROM placement WHERE account_key = ?"
        row = self._db.execute(query, (key,)).fetchone()
        before, account = self._usage.totals(key), self._accounts.get(key)
        with self._handle.transaction():
            names = self._placement.place(key, source=FIRST_PANEL, target=self._panel)
            passed = self._openings.passed_alone(key, names)
            if account is not None and passed is not None:
                self._accounts.put(_behind(account, before, passed))
            elif account is not None and row is not None:
                self._accounts.put(shifted(account, before=before, after=self._usage.totals(key)))
            elif row is not None and passed is None:
                self._placement.note_missing(key, key, at)
        return True

    def record_unknown(
        self,
        key: str,
        *,
        candidates: Collection[str] | None,
        at: datetime,
        dialect: Dialect | None = None,
    ) -> list[str]:
        """Record that the panel has no user of a reported name, only these, equal without case.

        `candidates` None: those recorded before. `dialect`: given if the panel's rules allow no
        such name. If `owner_of` finds one user, the name becomes an alias of it, without the bytes
        reported while it was listed as unknown. Otherwise it is listed as unknown, with an event,
        once no panel has it. Returns the accounts that got an alias. If the name got a user
        meanwhile, nothing is recorded.
        """
        if not self._placement.is_known(key):
            return []
        with self._handle.transaction():
            was_listed = self._unknown.panels_of(key)
            self._placement.note_missing(key, key, at)
            self._openings.deny(key)
            if candidates is not None:
                self._db.execute(
                    "UPDATE orphan SET candidates = ? WHERE account_key = ? AND panel = ?",
                    (msgspec.json.encode(sorted(candidates)).decode(), key, self._panel),
                )
            owners = self._match(key, was_listed, at=at)
            news = self._unknown.panels_of(key) - was_listed
            for panel in news:
                self._events.insert(key, [self._event_of_unknown(key, dialect)], at, panel=panel)
        if news or owners:
            self._handle.on_change(self._panel, owners)
        return owners

    def _event_of_unknown(self, key: str, dialect: Dialect | None) -> Event:
        who = "the panel has" if len(self._handle.panels) == 1 else "its panels have"
        text = f"traffic is reported for a name that {who} no user of"
        names = [
            scoped(panel, name) for panel, has in self._candidates(key).items() for name in has
        ]
        if names:
            text += f"; names are case-sensitive: report it as {' or as '.join(names)}"
        elif dialect:
            text += f", and no user of {dialect.title} can have: {dialect.rule}"
        return Event(kind="orphan", text=text)

    def _candidates(self, key: str) -> dict[str, list[str]]:
        """Return the users equal without case, by panel without a user of exactly this name."""
        query = "SELECT panel, candidates FROM orphan WHERE account_key = ? ORDER BY panel"
        rows = self._db.execute(query, (key,)).fetchall()
        return {panel: msgspec.json.decode(names, type=list[str]) for panel, names in rows}

    def _match(self, key: str, was_listed: Collection[str], *, at: datetime) -> list[str]:
        """Make an unknown name, in each reported form, an alias of the user `owner_of` finds."""
        found = self._candidates(key)
        is_known_nowhere = all(panel in found for panel in self._handle.panels)
        everywhere = [name for names in found.values() for name in names]
        matched: dict[str, None] = {}
        query = "SELECT username FROM external_usage WHERE account_key = ?"
        for (username,) in self._db.execute(query, (key,)).fetchall():
            name = self._placement.take_apart(username)
            names: Sequence[str] = everywhere if is_known_nowhere else ()
            if not self._placement.is_for_any_panel(name):
                names = found.get(name.panel or "", ())
            owner = owner_of(name.key, names)
            if owner is None or owner == key:
                continue
            if self._placement.is_for_any_panel(name):
                self._note_missing_before(
                    owner, [panel for panel, has in found.items() if owner in has], at
                )
            listed_for = FIRST_PANEL if self._placement.is_for_any_panel(name) else name.panel
            is_past = listed_for in was_listed
            stays = is_past and self._is_kept(key)
            counted_bytes = self._move_name(username, owner, is_past=is_past, stays=stays)
            text = (
                f"there is no user {name.key}: reports of {username} are charged to {owner}, the "
                f"only user of that name without regard to case; {human_bytes(counted_bytes)} "
                "so far"
            )
            self._events.insert(owner, [Event(kind="name_matched", text=text)], at)
            matched[owner] = None
        if matched and self._db.execute(query, (key,)).fetchone() is None:
            self._db.execute("DELETE FROM orphan WHERE account_key = ?", (key,))
        return list(matched)

    def _is_kept(self, key: str) -> bool:
        """Tell whether an account put aside was charged with this name."""
        query = "SELECT 1 FROM gone_account WHERE account_key = ?"
        return self._db.execute(query, (key,)).fetchone() is not None

    def _note_missing_before(self, owner: str, panels: Collection[str], at: datetime) -> None:
        """Record the panels before the first one with the user as not having the unscoped name."""
        if self._handle.shares_quotas or self._placement.panel_of(owner) != FIRST_PANEL:
            return
        for panel in self._handle.panels:
            if panel in panels:
                return
            self._placement.note_missing(owner, owner, at, panel=panel)
            self._openings.deny(owner, panel=panel)

    def _move_name(self, username: str, key: str, *, is_past: bool, stays: bool = False) -> int:
        """Assign a reported name to another account; return the bytes charged to that one.

        `is_past`: bytes until now are not charged to it. `stays`: they stay charged to the old one.
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
            self._openings.keep(
                old_key, old_panel, total_bytes - offset_bytes, raw_bytes - raw_offset_bytes
            )
        if is_past:
            offset_bytes, raw_offset_bytes = total_bytes, raw_bytes
            self._corrections.set_counted_from(username, change_seq)
        name = self._placement.take_apart(username)
        self._db.execute(
            "INSERT OR REPLACE INTO alias (username, account_key, folded, offset_bytes, "
            "raw_offset_bytes) VALUES (?, ?, ?, ?, ?)",
            (username, key, folded(name.key), offset_bytes, raw_offset_bytes),
        )
        panel = name.panel or self._placement.panel_of(key)
        self._db.execute(
            "UPDATE external_usage SET account_key = ?, panel = ? WHERE username = ?",
            (key, panel, username),
        )
        return int(total_bytes - offset_bytes)

    def aliases_of(self, keys: Iterable[str]) -> list[str]:
        """Return the aliases of these accounts that may be users of their own."""
        found: dict[str, None] = {}
        query = (
            f"SELECT account_key, username FROM alias WHERE account_key {OF_KEYS} "
            "ORDER BY account_key, username"
        )
        for key, username in self._db.execute(query, (keys_json(keys),)).fetchall():
            name = self._placement.take_apart(username)
            is_here = self._placement.is_for_any_panel(name) or name.panel == self._panel
            if name.key != key and is_here:
                found[name.key] = None
        return list(found)

    def part(self, name: str, *, at: datetime) -> bool:
        """Assign a reported name to the user of exactly that name, which exists now.

        Bytes until now stay where they were charged. Returns whether the name was an alias.
        """
        query = (
            "SELECT a.username, a.account_key FROM alias AS a JOIN external_usage AS u "
            "ON u.username = a.username WHERE a.folded = ? AND a.account_key <> ?"
        )
        is_news = False
        with self._handle.transaction():
            for username, owner in self._db.execute(query, (folded(name), name)).fetchall():
                reported = self._placement.take_apart(username)
                is_here = (
                    self._placement.is_for_any_panel(reported) or reported.panel == self._panel
                )
                if reported.key != name or not is_here:
                    continue
                if self._placement.is_for_any_panel(reported):
                    self._note_missing_before(name, [self._panel], at)
                before = self._counted_bytes(username)
                self._move_name(username, name, is_past=True, stays=True)
                text = (
                    f"there is a user {name} now: reports of {username} are charged to it from now "
                    f"on; the {human_bytes(before)} until now stay with {owner}"
                )
                self._events.insert(owner, [Event(kind="name_parted", text=text)], at)
                is_news = True
        if is_news:
            self._handle.on_change(self._panel, ())
        return is_news

    def _counted_bytes(self, username: str) -> int:
        query = (
            "SELECT u.total_bytes - coalesce(a.offset_bytes, 0) FROM external_usage AS u "
            "LEFT JOIN alias AS a ON a.username = u.username WHERE u.username = ?"
        )
        return int(self._db.execute(query, (username,)).fetchone()[0])

    def keys_of_name(self, name: str) -> list[str]:
        """Return the account keys to settle after a webhook about a panel's user of this name."""
        rows = self._db.execute(
            "SELECT account_key FROM orphan WHERE folded = :folded AND panel = :panel "
            "UNION SELECT account_key FROM alias WHERE folded = :folded",
            {"folded": folded(name), "panel": self._panel},
        ).fetchall()
        keys = [name] if self._placement.is_known(name) else []
        return list(dict.fromkeys([*keys, *(row[0] for row in rows)]))


def _behind(account: Account, before: Totals, passed: Totals) -> Account:
    """Move an account's baseline past the earlier bytes of a name that is assigned to it now."""
    after = Totals(
        billed_bytes=before.billed_bytes + passed.billed_bytes,
        raw_bytes=before.raw_bytes + passed.raw_bytes,
        seqs=merged(before.seqs or (), passed.seqs or ()),
    )
    return shifted(account, before=before, after=after)
