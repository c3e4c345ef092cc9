"""Which users a list request of the panel means, and in which order."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from marzban_bridge.panels.users import Status
from marzban_bridge.simulator.panel.errors import RefusedError
from marzban_bridge.simulator.panel.users import SimulatedUser

SORTABLE = frozenset({"username", "used_traffic", "data_limit", "expire", "created_at"})


@dataclass(frozen=True, slots=True, kw_only=True)
class UsersQuery:
    """The query of GET /api/users; None and 0 do not restrict.

    `owners` is who may own the users; `usernames` is handled by the caller, which knows the index.
    """

    offset: int | None = None
    limit: int | None = None
    search: str | None = None
    statuses: Sequence[Status] = ()
    owners: Sequence[str] | None = None
    sort: str | None = None
    ids: Sequence[int] = ()
    also_named: Sequence[str] = ()
    """PasarGuard asks for names in two parameters, and lists who is in both."""

    @property
    def restricts(self) -> bool:
        """Whether it leaves users out, pages aside."""
        return bool(self.search or self.statuses or self.owners or self.ids or self.also_named)


def select_users(
    users: Collection[SimulatedUser], query: UsersQuery
) -> tuple[list[SimulatedUser], int]:
    """Return one page and how many there are on all pages; RefusedError 400 for a bad sort."""
    start = max(query.offset or 0, 0)
    end = start + query.limit if query.limit and query.limit > 0 else None
    if query.restricts or query.sort is not None:
        order = [] if query.sort is None else [_sort_key(name) for name in _sort_names(query.sort)]
        users = [user for user in users if _matches(user, query)]
        for key, is_descending in reversed(order):
            users.sort(key=key, reverse=is_descending)
    return list(islice(users, start, end)), len(users)


def _matches(user: SimulatedUser, query: UsersQuery) -> bool:
    if query.statuses and user.status not in query.statuses:
        return False
    if query.ids and user.id not in query.ids:
        return False
    if query.also_named and user.username not in query.also_named:
        return False
    if query.owners and user.owner not in query.owners:
        return False
    if query.search:
        pattern = _like(query.search)
        return bool(pattern.search(user.username) or pattern.search(user.note or ""))
    return True


def _like(text: str) -> re.Pattern[str]:
    """Return the meaning of SQL's LIKE '%text%', in which % and _ stay wild."""
    return re.compile(
        "".join({"%": ".*", "_": "."}.get(character, re.escape(character)) for character in text),
        re.IGNORECASE | re.DOTALL,
    )


def _sort_names(sort: str) -> list[str]:
    names = sort.strip(",").split(",")
    for name in names:
        if name.removeprefix("-") not in SORTABLE:
            raise RefusedError(400, f'"{name}" is not a valid sort option')
    return names


def _sort_key(name: str) -> tuple[Callable[[SimulatedUser], Any], bool]:
    field = name.removeprefix("-")

    def key(user: SimulatedUser) -> Any:
        value = getattr(user, field)
        return (value is not None, value if value is not None else 0)

    return key, name.startswith("-")
