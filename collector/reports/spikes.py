"""Detects spikes: an hour of a sender far above its largest hours before; pure.

The largest hour of a day (UTC, by arrival) is compared with the sender's largest hour of the 14
days before. It is a spike if it is above a floor (COLLECTOR_SPIKE_FLOOR_BYTES) and above that hour
times a factor (COLLECTOR_SPIKE_FACTOR). For a sender without earlier days only the floor matters.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from collector.reports.sender_days import PAST_DAYS, REPORTER, USER

SHOWN_DAYS = 2
"""How many days a spike is shown: its own and the next."""


class BusyHour(NamedTuple):
    """A sender's largest hour of a day, and its largest of the days before."""

    sender: str
    day: int
    hour_bytes: int
    past_hour_bytes: int


class SpikeRule(NamedTuple):
    """The factor and the floor above which an hour is a spike."""

    factor: int
    floor_bytes: int

    def is_spike(self, busy: BusyHour) -> bool:
        """Tell whether a sender's largest hour of a day is a spike."""
        return busy.hour_bytes > max(self.floor_bytes, self.factor * busy.past_hour_bytes)


def spikes_of(hours: Iterable[BusyHour], rule: SpikeRule) -> list[BusyHour]:
    """Return the largest spike of each sender, largest first."""
    found: dict[str, BusyHour] = {}
    for each in sorted(hours, key=lambda it: it.hour_bytes):
        if each.sender.startswith((REPORTER, USER)) and rule.is_spike(each):
            found[each.sender] = each
    return sorted(found.values(), key=lambda it: (-it.hour_bytes, it.sender))


def by_reporter(spikes: Iterable[BusyHour]) -> dict[str, int]:
    """Return the bytes of each reporter's spike; of users without a key the largest, under ``""``.

    Users are too many to be labels of a metric.
    """
    shown: dict[str, int] = {}
    for each in spikes:
        name = each.sender.removeprefix(REPORTER) if each.sender.startswith(REPORTER) else ""
        shown[name] = max(each.hour_bytes, shown.get(name, 0))
    return shown


def describe(spike: BusyHour) -> str:
    """Describe a spike, in GiB."""
    return (
        f"{spike.hour_bytes / 2**30:.1f} GiB in an hour, {spike.past_hour_bytes / 2**30:.1f} GiB "
        f"at most in the {PAST_DAYS} days before"
    )
