"""The bridge's durable store: accounts, usage read from the feed, events, the feed's cursor.

One process writes it. Every method is one transaction, durable when it returns, except where its
docstring says "within a transaction".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from marzban_bridge.panels.names import FIRST_PANEL
from marzban_bridge.quota.account import Account, Event
from marzban_bridge.quota.usage import Totals
from marzban_bridge.store.accounts import Accounts, GoneAccounts
from marzban_bridge.store.departures import Departures
from marzban_bridge.store.events import Events
from marzban_bridge.store.file import FileHandle
from marzban_bridge.store.handle import StoreHandle
from marzban_bridge.store.identity import StoreIdentity
from marzban_bridge.store.metas import (
    APART,
    OTHER_BRIDGE,
    PANEL_ADDRESS,
    PANEL_IS,
    PANEL_USERS,
    PASS_POSITION,
    STOPPED_ADMINS,
)
from marzban_bridge.store.names.duplicate_names import DuplicateNames
from marzban_bridge.store.names.openings import Openings
from marzban_bridge.store.names.owners import NameOwners
from marzban_bridge.store.names.placement import DENIED, Placement
from marzban_bridge.store.names.unknown_names import UnknownNames
from marzban_bridge.store.resellers.resellers import Resellers
from marzban_bridge.store.reset_news import ResetNews, UserNews
from marzban_bridge.store.sharing.quota_switch import QuotaSwitch
from marzban_bridge.store.sharing.shared_quotas import SharedQuotas
from marzban_bridge.store.suspension import PANEL_SUSPENSIONS, PanelSuspension
from marzban_bridge.store.usage import Usage

_METAS_OF_PANEL = (
    PANEL_ADDRESS,
    PANEL_IS,
    PANEL_USERS,
    PANEL_SUSPENSIONS,
    OTHER_BRIDGE,
    STOPPED_ADMINS,
    f"{PASS_POSITION}:",
)
_OF_PANEL = (
    *("gone_account", "orphan", "announcement", "reset_all", "namesake"),
    *("reseller", "reseller_user"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredUser:
    """What an evaluation of a user needs of the store."""

    account: Account | None
    totals: Totals
    news: UserNews


class Store:
    """The store from the view of one panel; `of` returns the view of another.

    A path opens one SQLite file, which is created or migrated. Raises StoreError when another
    process has it open for writing, when it is damaged or not a bridge's store, or when a newer
    version wrote it.
    """

    def __init__(
        self, place: Path | StoreHandle, *, panel: str = FIRST_PANEL, read_only: bool = False
    ) -> None:
        handle = place
        if not isinstance(handle, StoreHandle):
            handle = FileHandle(handle, read_only=read_only)
        self._handle = handle
        self.panel = panel
        self.identity = StoreIdentity(handle)
        self.shared_quotas = SharedQuotas(handle)
        self.accounts = Accounts(handle, panel)
        self.departures = Departures(handle, panel)
        self.duplicate_names = DuplicateNames(handle, panel)
        self.events = Events(handle, panel)
        self.gone_accounts = GoneAccounts(handle, panel)
        self.name_owners = NameOwners(handle, panel)
        self.openings = Openings(handle, panel)
        self.placement = Placement(handle, panel)
        self.resellers = Resellers(handle, panel)
        self.reset_news = ResetNews(handle, panel)
        self.suspension = PanelSuspension(handle, panel)
        self.unknown_names = UnknownNames(handle, panel)
        self.usage = Usage(handle, panel)
        self._switch = QuotaSwitch(handle, panel)

    def of(self, panel: str) -> Store:
        """Return the view of a panel in the same store."""
        return self if panel == self.panel else Store(self._handle, panel=panel)

    def close(self) -> None:
        """Close the store and release its lock."""
        self._handle.close()

    def transaction(self) -> AbstractContextManager[None]:
        """Return a context whose block, which awaits nothing, is one commit, durable when it ends.

        What is stored within it is so together, and `on_change` is called before the commit.
        """
        return self._handle.transaction()

    @property
    def suspended(self) -> str | None:
        """Why the store is suspended, so that no user is changed; None if it is not."""
        return self._handle.suspended

    @property
    def on_change(self) -> Callable[[str, Iterable[str]], None]:
        """The callback after a commit, with a panel and the keys of its changed accounts.

        Without keys if only events were added.
        """
        return self._handle.on_change

    @on_change.setter
    def on_change(self, told: Callable[[str, Iterable[str]], None]) -> None:
        self._handle.on_change = told

    @property
    def shares_quotas(self) -> bool:
        """Whether users of one name on several panels share a quota."""
        return self._handle.shares_quotas

    @property
    def panels(self) -> tuple[str, ...]:
        """The configured panels, in order."""
        return self._handle.panels

    def meta(self, key: str) -> str | None:
        """Return a stored fact by its key, or None."""
        return self._handle.meta(key)

    def set_meta(self, key: str, value: str) -> None:
        """Store a fact under a key."""
        self._handle.set_meta(key, value)

    def metas(self, prefix: str) -> dict[str, str]:
        """Return the stored facts whose keys have a prefix."""
        return self._handle.metas(prefix)

    def counts(self) -> Mapping[str, int]:
        """Return the numbers of accounts, held accounts and unknown names."""
        counts = self.accounts.counts()
        unknown = self.unknown_names.count()
        return {"accounts": counts.accounts, "unknown_names": unknown, "held": counts.held}

    def users(self, admins: Mapping[str, str | None]) -> dict[str, StoredUser]:
        """Return what is stored of users, each given with its admin; by a few queries for all."""
        accounts = self.accounts.of(admins)
        totals = self.usage.totals_of(admins)
        news = self.reset_news.of_users(admins)
        return {
            key: StoredUser(account=accounts.get(key), totals=totals[key], news=news[key])
            for key in admins
        }

    def period_starts(self, account: Account) -> dict[str, Totals]:
        """Return each panel's totals of a name, at the moment the account begins a period."""
        return self._switch.period_starts(account)

    def suspend(self, reason: str, event: Event, *, at: datetime) -> None:
        """Suspend the store, across restarts: no user is changed."""
        with self._handle.transaction():
            self.set_meta("doubt", reason)
            self.events.insert("", [event], at)
        self._handle.suspended = reason
        self._handle.on_change(self.panel, ())

    def resume(self) -> None:
        """End the suspension; the store gets a new name, without a reported position."""
        with self._handle.transaction():
            self._handle.delete_meta("doubt")
            self.identity.renew()
        self._handle.suspended = None

    def configure(self, panels: Sequence[str], *, shares_quotas: bool) -> None:
        """Set the panels, in order, and whether their users of one name share a quota.

        Stored usage is assigned again. A user that changes between a quota of its own and a shared
        one keeps the usage of its period.
        """
        handle = self._handle
        handle.configure(panels)
        with handle.transaction():
            names = " ".join(handle.panels)
            if names != (self.meta("panels") or FIRST_PANEL):
                self.openings.place_from_now()
                self.set_meta("panels", names)
            if shares_quotas is handle.shares_quotas:
                return
            if shares_quotas:
                self._switch.begin()
            else:
                self._switch.end()
            handle.shares_quotas = shares_quotas
            self.set_meta("shares_quotas", str(shares_quotas).lower())

    def begin_shared_periods_as_rebased(self) -> None:
        """Take the beginning of each shared period from the accounts again, after a rebase."""
        with self._handle.transaction():
            self._switch.begin_as_rebased()

    def forget_panel(self, panel: str, *, actor: str, at: datetime) -> int:
        """Delete all data of a panel that is no longer configured; return its number of accounts.

        Its users' part of shared quotas stays used. Their unscoped names pass to the next panel
        with such users, which start at zero. Raises ValueError for a panel that is configured or
        unknown.
        """
        forgotten, handle = self.of(panel), self._handle
        if panel in handle.panels:
            raise ValueError(f"panel {panel} is configured")
        if panel not in handle.known_panels and self.meta(f"{PANEL_ADDRESS}{panel}") is None:
            raise ValueError(f"the store has no panel {panel}")
        with handle.transaction():
            count = forgotten.departures.forget_all()
            forgotten.placement.release_all()
            handle.known_panels -= {panel}
            forgotten.placement.place_again()
            for table in _OF_PANEL:
                handle.db.execute(f"DELETE FROM {table} WHERE panel = ?", (panel,))
            for prefix in _METAS_OF_PANEL:
                handle.delete_meta(f"{prefix}{panel}")
            for key in self.metas(APART):
                if panel in key.removeprefix(APART).split():
                    handle.delete_meta(key)
            for prefix in (f"reset_all_after:{panel}:", f"{DENIED}{panel}:"):
                handle.delete_metas(prefix)
            text = f"panel {panel} was deleted from the store, with {count} accounts"
            self.events.insert("", [Event(kind="action", text=text, actor=actor)], at)
        handle.load_resellers()
        handle.on_change(self.panel, ())
        return count

    def tell_apart(self, one: str, other: str, *, actor: str, at: datetime) -> None:
        """Store that two entries are two panels, even though their users are the same."""
        first, second = sorted((one, other))
        text = f"panels {first} and {second} are two panels"
        with self._handle.transaction():
            self.set_meta(f"{APART}{first} {second}", "true")
            self.events.insert("", [Event(kind="action", text=text, actor=actor)], at)
