"""Sums and short lists over all users: what a dashboard would else ask ten thousand series for.

Pure. `user_counts` and `reseller_users` are sums, `user_lists` says who is near, over, next, and
whose time ends.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from collector.influx.delivery import Refused
from collector.influx.lines import NANOS_PER_MILLI, FieldValue, UnwritableError, to_line
from collector.schema import (
    LIST_LENGTH,
    RESELLER_USERS,
    USER_COUNTS,
    USER_LISTS,
    Measurement,
    UserList,
)
from marzban_bridge.panels.users import Status
from marzban_bridge.store.usage_sums import bounded
from marzban_bridge.timeseries.figures import UserFigures

SOON = timedelta(days=7)
"""A user who expires within this time is counted as expiring."""
HORIZON = timedelta(days=30)
"""The list of those who expire looks so far ahead."""


@dataclass(frozen=True, slots=True)
class ListPlace:
    """A place on a list: who is on it, None if it is empty."""

    list: UserList
    rank: str
    figures: UserFigures | None


def counts(
    users: Iterable[UserFigures], panels: Iterable[str], *, at_millis: int
) -> dict[str, dict[str, FieldValue | None]]:
    """Return the sums of each panel, of those without users too."""
    sums = {panel: _Sums() for panel in panels}
    for each in users:
        sums.setdefault(each.panel, _Sums()).add(each, now_millis=at_millis)
    return {panel: found.fields() for panel, found in sums.items()}


def of_admins(
    users: Iterable[UserFigures], *, at_millis: int
) -> dict[tuple[str, str], dict[str, FieldValue | None]]:
    """Return the sums of each admin's users, by panel and admin."""
    sums: dict[tuple[str, str], _Sums] = {}
    for each in users:
        sums.setdefault((each.panel, each.admin), _Sums()).add(each, now_millis=at_millis)
    return {place: found.fields() for place, found in sums.items()}


def lists(users: Iterable[UserFigures], *, at_millis: int) -> list[ListPlace]:
    """Return every place of every list, empty ones too, so that no old name stays on one."""
    everybody = list(users)
    found: list[ListPlace] = []
    for which, (belongs, order) in _LISTS.items():
        of_it = [each for each in everybody if belongs(each, at_millis)]
        names = heapq.nsmallest(LIST_LENGTH, of_it, key=order)
        padded = [*names, *[None] * (LIST_LENGTH - len(names))]
        found += [ListPlace(which, f"{n:02}", each) for n, each in enumerate(padded, start=1)]
    return found


_LISTS: dict[
    UserList,
    tuple[
        Callable[[UserFigures, int], bool], Callable[[UserFigures], tuple[float | bool | str, ...]]
    ],
] = {
    UserList.NEXT: (
        lambda each, _: each.days_to_limit >= 0 and not each.is_over,
        lambda each: (each.days_to_limit, each.user),
    ),
    UserList.NEAR: (
        lambda each, _: each.is_near,
        lambda each: (-each.used_ratio, each.user),
    ),
    UserList.OVER: (
        lambda each, _: each.is_over,
        lambda each: (not each.is_unenforced, -each.used_ratio, each.user),
    ),
    UserList.EXPIRING: (
        lambda each, now_millis: each.expires_within(HORIZON, now_millis=now_millis),
        lambda each: (each.expires_at_millis, each.user),
    ),
}
"""Who belongs on a list, and in which order."""


class _Sums:
    def __init__(self) -> None:
        self._by_status = dict.fromkeys(Status, 0)
        self._users = self._near = self._over = self._unenforced = self._expiring = 0
        self._quota_bytes = self._marzban_bytes = self._external_bytes = 0

    def add(self, each: UserFigures, *, now_millis: int) -> None:
        self._users += 1
        self._by_status[each.status] += 1
        self._near += each.is_near
        self._over += each.is_over
        self._unenforced += each.is_unenforced
        self._expiring += each.expires_within(SOON, now_millis=now_millis)
        self._quota_bytes += each.quota_bytes
        self._marzban_bytes += each.marzban_bytes
        self._external_bytes += each.external_bytes

    def fields(self) -> dict[str, FieldValue | None]:
        return {
            "users": self._users,
            **{status.value: number for status, number in self._by_status.items()},
            "near": self._near,
            "over": self._over,
            "unenforced": self._unenforced,
            "expiring": self._expiring,
            "quota_bytes": bounded(self._quota_bytes),
            "marzban_bytes": bounded(self._marzban_bytes),
            "external_bytes": bounded(self._external_bytes),
            "used_bytes": bounded(self._marzban_bytes + self._external_bytes),
        }


_NOBODY: Mapping[str, FieldValue | None] = {
    name: kind() for name, kind in USER_LISTS.fields.items()
}


def list_lines(
    users: Sequence[UserFigures], panels: Iterable[str], *, at_millis: int
) -> list[str | Refused]:
    """Return the lines of the counts of each panel, and of all lists."""
    of_panels = counts(users, panels, at_millis=at_millis)
    return [
        *(
            _line(USER_COUNTS, {"panel": panel}, fields, at_millis)
            for panel, fields in of_panels.items()
        ),
        *(_place_line(each, at_millis) for each in lists(users, at_millis=at_millis)),
    ]


def reseller_lines(users: Sequence[UserFigures], *, at_millis: int) -> list[str | Refused]:
    """Return a line for each admin with users."""
    return [
        _line(RESELLER_USERS, {"admin": admin, "panel": panel}, fields, at_millis)
        for (panel, admin), fields in of_admins(users, at_millis=at_millis).items()
    ]


def _place_line(place: ListPlace, at_millis: int) -> str | Refused:
    fields = _NOBODY if place.figures is None else _fields_of(place.figures)
    tags = {"list": place.list.value, "rank": place.rank}
    return _line(USER_LISTS, tags, fields, at_millis)


def _fields_of(figures: UserFigures) -> dict[str, FieldValue | None]:
    return {
        "user": figures.user,
        "admin": figures.admin,
        "panel": figures.panel,
        "status": figures.status.value,
        "used_ratio": figures.used_ratio,
        "quota_bytes": figures.quota_bytes,
        "marzban_bytes": figures.marzban_bytes,
        "external_bytes": figures.external_bytes,
        "used_bytes": figures.used_bytes,
        **figures.outlook(),
    }


def _line(
    measurement: Measurement,
    tags: Mapping[str, str],
    fields: Mapping[str, FieldValue | None],
    at_millis: int,
) -> str | Refused:
    try:
        return to_line(measurement.name, tags, fields, at_millis * NANOS_PER_MILLI)
    except UnwritableError as error:
        return Refused(f"{measurement.name} of {dict(tags)}", str(error))
