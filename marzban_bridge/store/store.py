"""The bridge's own durable memory: accounts, usage read from the feed, events, the feed's cursor.

One process writes it. Every method is one transaction and is durable when it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Self

import msgspec

from marzban_bridge.panels.names import FIRST_PANEL, scoped, take_apart
from marzban_bridge.quota.account import Account, Event, account_key
from marzban_bridge.quota.shared import SharedQuota
from marzban_bridge.quota.shared_switch import Member, form, leave, standing_of
from marzban_bridge.quota.usage import Totals
from marzban_bridge.store.doubts import PANEL_DOUBTS, DoubtBooks
from marzban_bridge.store.events import RecordedEvent
from marzban_bridge.store.handle import FileHandle, StoreHandle
from marzban_bridge.store.identity import Lineage
from marzban_bridge.store.names.openings import DENIED
from marzban_bridge.store.usage_sums import sum_of

__all__ = ["RecordedEvent", "Store"]

_AMBIGUOUS = (
    "SELECT n.account_key, group_concat(DISTINCT n.panel) FROM namesake AS n "
    "JOIN external_usage AS u ON u.account_key = n.account_key AND instr(u.username, '/') = 0 "
    "GROUP BY n.account_key"
)


PANEL_ADDRESS = "panel_address:"
"""Before a panel's name: a mark of the address that it had last."""
PANEL_USERS = "panel_users:"
"""Before a panel's name: marks of its newest users, while no other entry is the same panel."""
APART = "panels_apart:"
"""Before two panels' names, in order: the operator said that they are two."""
OTHER_BRIDGE = "other_bridge:"
"""Before a panel's name: the bridge with another store that was found on it."""
PASS_POSITION = "pass_position"  # noqa: S105 - the pass is one over all users
"""Alone for the first panel, before a colon and the name of another: where a pass goes on."""
_METAS_OF_PANEL = (PANEL_ADDRESS, PANEL_USERS, PANEL_DOUBTS, OTHER_BRIDGE, f"{PASS_POSITION}:")
_OF_PANEL = ("gone_account", "orphan", "announcement", "reset_all", "namesake")


class Store(DoubtBooks):
    """The bridge's memory of one panel; `of` gives that of another.

    With a path it is in one SQLite file, which is created or migrated. Raises StoreError when
    another process has it open for writing, when it is damaged or not a bridge's store, or when a
    newer version wrote it.
    """

    def __init__(self, place: Path | StoreHandle, *, read_only: bool = False) -> None:
        if not isinstance(place, StoreHandle):
            place = FileHandle(place, read_only=read_only)
        self._be_of(place, FIRST_PANEL)

    def _be_of(self, handle: StoreHandle, panel: str) -> None:
        self._handle = handle
        self._db = handle.db
        self.panel = panel

    def of(self, panel: str) -> Self:
        """Return the memory of a panel in the same store."""
        if panel == self.panel:
            return self
        other = type(self).__new__(type(self))
        other._be_of(self._handle, panel)
        return other

    def close(self) -> None:
        """Close the store and let another process have it."""
        self._handle.close()

    @property
    def lineage(self) -> Lineage:
        """The store's place in its own history."""
        return self._handle.lineage

    @property
    def doubt(self) -> str | None:
        """Why nobody may be changed on the strength of this store; None when all is well."""
        return self._handle.doubt

    @property
    def on_change(self) -> Callable[[str, Iterable[str]], None]:
        """What is called after a commit with a panel and the accounts of it that were touched.

        With none of them after mere events.
        """
        return self._handle.on_change

    @on_change.setter
    def on_change(self, told: Callable[[str, Iterable[str]], None]) -> None:
        self._handle.on_change = told

    def meta(self, key: str) -> str | None:
        """Return a stored fact about the bridge itself, None when there is none."""
        return self._handle.meta(key)

    def set_meta(self, key: str, value: str) -> None:
        """Store a fact about the bridge itself."""
        self._handle.set_meta(key, value)

    def metas(self, prefix: str) -> dict[str, str]:
        """Return the stored facts whose keys begin alike."""
        rows = self._db.execute(
            "SELECT key, value FROM meta WHERE substr(key, 1, length(?1)) = ?1", (prefix,)
        )
        return dict(rows.fetchall())

    def begin_doubt(self, reason: str, event: Event, *, at: datetime) -> None:
        """Have nobody changed on the strength of this store, over restarts."""
        with self._handle.transaction():
            self.set_meta("doubt", reason)
            self._insert_events("", [event], at)
        self._handle.doubt = reason
        self.on_change(self.panel, ())

    def end_doubt(self) -> None:
        """Trust the store again, as one that begins another history."""
        with self._handle.transaction():
            self._db.execute("DELETE FROM meta WHERE key = 'doubt'")
            self.lineage.begin_anew()
        self._handle.doubt = None

    def configure(self, panels: Sequence[str], *, shares_quotas: bool) -> None:
        """Say which panels there are, in order, and whether their users of one name share a quota.

        Usage is counted for the panels it is for from then on. Whoever had a quota of its own and
        shares one now, or the other way round, keeps what was used in its period.
        """
        handle = self._handle
        handle.configure(panels)
        with handle.transaction():
            names = " ".join(handle.panels)
            if names != (self.meta("panels") or FIRST_PANEL):
                self._place_anew()
                self.set_meta("panels", names)
            if shares_quotas is handle.shares_quotas:
                return
            if shares_quotas:
                self._form_shared_quotas()
            else:
                self._leave_shared_quotas()
            handle.shares_quotas = shares_quotas
            self.set_meta("shares_quotas", str(shares_quotas).lower())

    def shared_members(self, key: str) -> dict[str, Member]:
        """Return the accounts of one name by panel, in order, with what the ledger has for each."""
        return {
            panel: Member(account=account, own=self.of(panel).own_totals(key))
            for panel, account in self.members(key).items()
        }

    def standings(self, account: Account) -> dict[str, Totals]:
        """Return where the panels of a name stand as the account, of this one, begins a period."""
        begun = replace(account, sighting=replace(account.sighting, used_bytes=0))
        members = self.shared_members(account.key)
        members[self.panel] = Member(account=begun, own=self.own_totals(account.key))
        return {panel: standing_of(member) for panel, member in members.items()}

    def _form_shared_quotas(self) -> None:
        """Have users of one name share a quota, with what each had used."""
        for (key,) in self._db.execute("SELECT DISTINCT account_key FROM account").fetchall():
            members = self.shared_members(key)
            quota, formed = form(members, nobodys=self._nobodys_totals(key))
            self._put_shared_quota(key, quota)
            for panel, account in formed.items():
                self.of(panel)._put(account)

    def _nobodys_totals(self, key: str) -> Totals:
        """Return what was reported of a name for panels that have no such user."""
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

    def _place_with_user(self, key: str) -> None:
        """Count a name alone for the first panel that has the user, if its own has none.

        One that was never reported alone is placed when it is: all panels are asked for it then.
        """
        if len(self._handle.known_panels) == 1:
            return
        known = self._handle.known_panels
        if all(take_apart(name, panels=known).panel for name in self.reported_names(key)):
            self._db.execute(
                "DELETE FROM orphan AS o WHERE account_key = ? AND NOT EXISTS (SELECT 1 "
                "FROM external_usage AS u WHERE u.account_key = o.account_key "
                "AND u.panel = o.panel)",
                (key,),
            )
            return
        placed, (first, *others) = self.placed_on(key), self.members(key)
        if placed not in {first, *others}:
            self._move_alone(key, source=placed, target=first)
            statement = "INSERT OR REPLACE INTO placement VALUES (?, ?, 0)"
            self._db.execute(statement, (key, first))

    def _leave_shared_quotas(self) -> None:
        """Give everybody a quota of its own again."""
        for (key,) in self._db.execute("SELECT DISTINCT account_key FROM account").fetchall():
            self._place_with_user(key)
            members = self.shared_members(key)
            totals = {panel: self.of(panel)._shared_totals(key) for panel in members}
            shared = self.shared_quota(key)
            if shared is None:
                continue
            for panel, account in leave(members, shared, totals=totals).items():
                self.of(panel)._put(account)
        for panel in self._handle.known_panels:
            self.of(panel)._leave_shared_quotas_of_gone()
        self._db.execute("DELETE FROM shared_quota")

    def forget_panel(self, panel: str, *, actor: str, at: datetime) -> int:
        """Drop all that is known of a panel that is no longer configured; return its accounts.

        What its users used of shared quotas stays used, and names that counted for them pass to
        the next panel that has them, without what was reported until now. Raises ValueError for a
        panel that is configured, or that nothing is known of.
        """
        books, handle = self.of(panel), self._handle
        metas = self.metas(PANEL_ADDRESS)
        if panel in handle.panels:
            raise ValueError(f"panel {panel} is configured")
        if panel not in handle.known_panels and f"{PANEL_ADDRESS}{panel}" not in metas:
            raise ValueError(f"nothing is known of a panel {panel}")
        with handle.transaction():
            count = books._drop_accounts()
            released = "UPDATE placement SET is_released = 1 WHERE panel = ?"
            self._db.execute(released, (panel,))
            handle.known_panels -= {panel}
            self._count_again()
            for table in _OF_PANEL:
                self._db.execute(f"DELETE FROM {table} WHERE panel = ?", (panel,))
            for prefix in _METAS_OF_PANEL:
                self._db.execute("DELETE FROM meta WHERE key = ?", (f"{prefix}{panel}",))
            for key in self.metas(APART):
                if panel in key.removeprefix(APART).split():
                    self._db.execute("DELETE FROM meta WHERE key = ?", (key,))
            for prefix in (f"reset_all_after:{panel}:", f"{DENIED}{panel}:"):
                self._db.execute(
                    "DELETE FROM meta WHERE substr(key, 1, length(?1)) = ?1", (prefix,)
                )
            text = f"panel {panel} is forgotten, with {count} accounts"
            self._insert_events("", [Event(kind="action", text=text, actor=actor)], at)
        handle.on_change(self.panel, ())
        return count

    def tell_apart(self, one: str, other: str, *, actor: str, at: datetime) -> None:
        """Store that two panels are two, whatever their users look like."""
        first, second = sorted((one, other))
        text = f"panels {first} and {second} are two panels"
        with self._handle.transaction():
            self.set_meta(f"{APART}{first} {second}", "true")
            self._insert_events("", [Event(kind="action", text=text, actor=actor)], at)

    @property
    def shares_quotas(self) -> bool:
        """Whether users of one name on several panels share a quota."""
        return self._handle.shares_quotas

    @property
    def panels(self) -> tuple[str, ...]:
        """The panels that are configured, in their order."""
        return self._handle.panels

    def loosen_shared_quotas(self) -> None:
        """Have each shared period's beginning read anew from the accounts, after a rebase."""
        with self._handle.transaction():
            for key, state in self._db.execute(
                "SELECT account_key, state FROM shared_quota"
            ).fetchall():
                shared = msgspec.json.decode(state, type=SharedQuota)
                self._put_shared_quota(key, replace(shared, start=None))

    def record_namesakes(self, found: Mapping[str, Collection[str]], *, is_all: bool) -> set[str]:
        """Remember on which panels there are users of one name; return the names that are news.

        `is_all`: no others exist any more.
        """
        wanted = {(key, panel) for key, panels in found.items() for panel in panels}
        known = set(self._db.execute("SELECT account_key, panel FROM namesake").fetchall())
        gone = known - wanted if is_all else set()
        with self._handle.transaction():
            self._db.executemany(
                "INSERT INTO namesake (account_key, panel) VALUES (?, ?)", wanted - known
            )
            self._db.executemany("DELETE FROM namesake WHERE account_key = ? AND panel = ?", gone)
        return {key for key, _ in wanted - known}

    def ambiguous_names(self) -> int:
        """Return how many names are reported alone and are users of several panels."""
        return int(self._db.execute(f"SELECT count(*) FROM ({_AMBIGUOUS})").fetchone()[0])

    def tell_ambiguous_names(self, *, at: datetime) -> list[str]:
        """Leave an event about each such name that none was left about; return the names."""
        rows = self._db.execute(f"{_AMBIGUOUS} HAVING NOT max(n.is_told)").fetchall()
        for key, panels in rows:
            books = self.of(self.placed_on(key))
            text = (
                f"there are users of this name on {panels.replace(',', ', ')}; what is reported of "
                f"the name alone counts for {books.panel}: report it as PANEL/{key}"
            )
            with self._handle.transaction():
                books._insert_events(key, [Event(kind="conflict", text=text)], at)
                self._db.execute("UPDATE namesake SET is_told = 1 WHERE account_key = ?", (key,))
            self.on_change(books.panel, ())
        return [row[0] for row in rows]

    def public_name(self, username: str) -> str:
        """Return what a user is called outside its panel: as it is reported alone, or scoped."""
        if self.panel == FIRST_PANEL:
            return username
        query = "SELECT 1 FROM placement WHERE account_key = ? AND panel = ? AND NOT is_released"
        placed = self._db.execute(query, (account_key(username), self.panel)).fetchone()
        return username if placed else scoped(self.panel, username)
