"""The resellers of one panel: admins that have a quota for all of their users together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

import msgspec

from marzban_bridge.event import Event
from marzban_bridge.quota.resellers.charges import CountedUser
from marzban_bridge.quota.resellers.reseller import Reseller, changed, renewed, reset, told
from marzban_bridge.store.events import Events
from marzban_bridge.store.handle import StoreHandle
from marzban_bridge.store.resellers.counting import ResellerCounts


class Resellers:
    """The admins of one panel that have a quota."""

    def __init__(self, handle: StoreHandle, panel: str) -> None:
        self._handle = handle
        self._db = handle.db
        self._panel = panel
        self._counts = ResellerCounts(handle, panel)
        self._events = Events(handle, panel)

    @property
    def is_empty(self) -> bool:
        """Whether no admin of the panel has a quota."""
        return all(panel != self._panel for panel, _ in self._handle.resellers)

    def get(self, admin: str | None) -> Reseller | None:
        """Return an admin's quota and usage; None if it has no quota."""
        return self._counts.get(admin)

    def all(self) -> list[Reseller]:
        """Return all of them, by name."""
        if self.is_empty:
            return []
        query = "SELECT state FROM reseller WHERE panel = ? ORDER BY admin"
        rows = self._db.execute(query, (self._panel,)).fetchall()
        return [msgspec.json.decode(row[0], type=Reseller) for row in rows]

    def is_cut_off(self, admin: str | None) -> bool:
        """Tell whether an admin's users are to be cut off."""
        reseller = self.get(admin)
        return reseller is not None and reseller.is_cut_off

    def set(
        self, reseller: Reseller, users: Mapping[str, CountedUser], *, actor: str, at: datetime
    ) -> Reseller:
        """Store a quota; return the reseller.

        `users`, by account key: what those of an admin that had none have used until now.
        """
        before = self.get(reseller.admin)
        reseller, events = told(reseller)
        with self._handle.transaction():
            self._counts.put(reseller)
            for key, user in users.items():
                self._counts.put_user(key, user)
            self._events.insert("", [changed(before, reseller, actor=actor), *events], at)
        self._handle.load_resellers()
        self._handle.on_change(self._panel, ())
        return reseller

    def unset(self, admin: str, *, actor: str, at: datetime) -> bool:
        """Take an admin's quota away; return whether there was one."""
        before = self.get(admin)
        if before is None:
            return False
        values = (admin, self._panel)
        with self._handle.transaction():
            self._db.execute("DELETE FROM reseller WHERE admin = ? AND panel = ?", values)
            self._db.execute("DELETE FROM reseller_user WHERE admin = ? AND panel = ?", values)
            self._events.insert("", [changed(before, None, actor=actor)], at)
        self._handle.load_resellers()
        self._handle.on_change(self._panel, ())
        return True

    def reset(self, admin: str, *, actor: str, at: datetime) -> Reseller | None:
        """Begin a new period of an admin's quota; None if it has none."""
        before = self.get(admin)
        if before is None:
            return None
        reseller, event = reset(before, at=at, cause="a reset was requested", actor=actor)
        self._put(reseller, [event], at=at)
        return reseller

    def renew(self, *, at: datetime) -> None:
        """Begin the periods that are due by the calendar."""
        for each in self.all():
            if found := renewed(each, now=at):
                reseller, event = found
                self._put(reseller, [event], at=at)

    def is_counted(self, key: str, admin: str) -> bool:
        """Tell whether the user of an account is counted as one of an admin's."""
        query = "SELECT 1 FROM reseller_user WHERE account_key = ? AND panel = ? AND admin = ?"
        return self._db.execute(query, (key, self._panel, admin)).fetchone() is not None

    def note_listed(self, admin: str, *, at: datetime) -> None:
        """Record that each of an admin's users was counted in a list that was begun at `at`."""
        if reseller := self.get(admin):
            with self._handle.transaction():
                self._counts.put(replace(reseller, listed_at=at))

    def _put(self, reseller: Reseller, events: Iterable[Event], *, at: datetime) -> None:
        with self._handle.transaction():
            self._counts.put(reseller)
            self._events.insert("", events, at)
        self._handle.on_change(self._panel, ())
