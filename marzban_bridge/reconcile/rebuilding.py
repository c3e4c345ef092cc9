"""Rebuilds a lost store's accounts of one panel from the lines in its users' notes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from marzban_bridge.errors import BridgeError
from marzban_bridge.panels.http.pages import past_failures
from marzban_bridge.panels.names import account_key
from marzban_bridge.panels.port import Panel
from marzban_bridge.panels.users import PanelUser
from marzban_bridge.quota.account import Account, Event
from marzban_bridge.quota.adoption import adopt
from marzban_bridge.quota.writes.line_recovery import recovered_from
from marzban_bridge.quota.writes.note_line import NoteLine, read_lines
from marzban_bridge.reconcile.trust.duplicate_names import PAGE
from marzban_bridge.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class LinesOfStore:
    """The lines of one store in the notes of a panel's users."""

    store: str
    places: tuple[str, ...]
    """The hosts on which its bridge ran."""
    users: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """One user's account after the rebuild."""

    account: Account
    event: Event
    line: NoteLine | None

    @property
    def has_line(self) -> bool:
        """Whether the account is from a note line, and not from the limit that the panel shows."""
        return self.line is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilding:
    """The lines in a panel's notes, and the accounts computed from them; not stored yet."""

    panel: str
    stores: tuple[LinesOfStore, ...]
    accounts: tuple[Rebuilt, ...]


async def read(
    store: Store,
    panel: Panel,
    *,
    from_store: str | None,
    clock: Callable[[], datetime],
    actor: str,
) -> Rebuilding:
    """Read the notes of all users of a panel and compute their accounts; stores nothing.

    Users without a line keep their account. If they have none and were reported, they get one as at
    a first start: the limit that the panel shows is the quota. Raises BridgeError where a note has
    lines of several stores and `from_store` names none of them.
    """
    users = [user async for user in _all_users(panel)]
    lines = {user.username: _telling(user) for user in users}
    stores = _stores_in(lines.values())
    rebuilt: list[Rebuilt] = []
    for user in users:
        line = _chosen(lines[user.username], from_store, username=user.username)
        made = _rebuild(store, user, line, now=clock(), actor=actor)
        rebuilt += [made] if made else []
    return Rebuilding(panel=store.panel, stores=stores, accounts=tuple(rebuilt))


def keep(store: Store, rebuilding: Rebuilding, *, at: datetime) -> None:
    """Store the accounts, an event for each, and the stores whose lines were used."""
    store.identity.rebuilt_from({each.line.store for each in rebuilding.accounts if each.line})
    for rebuilt in rebuilding.accounts:
        store.accounts.save(rebuilt.account, [rebuilt.event], at=at, takes_announcement=True)


def _rebuild(
    store: Store, user: PanelUser, line: NoteLine | None, *, now: datetime, actor: str
) -> Rebuilt | None:
    key = account_key(user.username)
    totals = store.usage.totals(key)
    if line:
        account, event = recovered_from(line, user, totals=totals, now=now, actor=actor)
    elif store.accounts.has(key) or not store.placement.is_known(key):
        return None
    else:
        account = adopt(user, baseline=totals, totals=totals, now=now)
        text = "no line in the user's note: the limit that the panel shows is taken as the quota"
        event = Event(kind="rebuilt", text=text, actor=actor)
    names = store.identity.names_in_notes
    known = tuple(f"{each.store}:{each.number}" for each in _lines(user) if each.store not in names)
    numbers = [each.number for each in _lines(user) if each.store in names]
    account = replace(
        account, known_lines=known, write_number=max(account.write_number, *numbers, 0)
    )
    return Rebuilt(account=account, event=event, line=line)


def _lines(user: PanelUser) -> list[NoteLine]:
    return read_lines(user.note, username=user.username)


def _telling(user: PanelUser) -> list[NoteLine]:
    """Return the lines with a quota; a line that only announces its bridge may have none."""
    return [line for line in _lines(user) if line.limit_bytes is not None]


def _stores_in(lines: Iterable[list[NoteLine]]) -> tuple[LinesOfStore, ...]:
    found: dict[str, list[NoteLine]] = {}
    for of_user in lines:
        for line in of_user:
            found.setdefault(line.store, []).append(line)
    return tuple(
        LinesOfStore(
            store=store,
            places=tuple(sorted({line.place for line in of_store})),
            users=len(of_store),
        )
        for store, of_store in sorted(found.items(), key=lambda each: -len(each[1]))
    )


def _chosen(lines: list[NoteLine], from_store: str | None, *, username: str) -> NoteLine | None:
    """Return the only line there is, or the one of the chosen store."""
    if from_store is not None:
        return next((line for line in lines if line.store == from_store), None)
    if len(lines) > 1:
        said = ", ".join(f"{line.store} (on {line.place})" for line in lines)
        raise BridgeError(
            f"the note of {username} has lines of several stores: {said}. Choose one with --store"
        )
    return lines[0] if lines else None


async def _all_users(panel: Panel) -> AsyncIterator[PanelUser]:
    async def ask(offset: int, limit: int) -> list[str]:
        return await panel.usernames(offset=offset, limit=limit)

    offset = 0
    while True:
        page = await past_failures(ask, panel.whoami, offset=offset, limit=PAGE)
        for user in (await panel.get_users([name for name in page if name])).users:
            yield user
        if len(page) < PAGE:
            return
        offset += PAGE
