"""Bounds of the servers, ports and protocols that a sender may name per day; pure.

Each combination of a user, server, port and protocol is a series, which the ledger and InfluxDB
keep for ever. Beyond a sender's bound per day (UTC, by arrival), reports of new servers are counted
under the server `other`, and billed with the ratio of the server that they name.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from collector.reports.columns import Columns
from collector.reports.report import DAY_MILLIS, Report

OTHER_SERVER, OTHER_PORT, OTHER_PROTOCOL = "other", 0, "unknown"
SHARE = 16
"""The ledger is read again once 1/SHARE of the bound are new places."""
REMEMBERED = 20_000

Place = tuple[str, int, str]
"""A server, port and protocol."""


@dataclass(slots=True)
class _Known:
    """The places that a sender named on a day, as hashes to save memory."""

    day: int
    places: set[int] = field(default_factory=set)
    unread: int = 0
    """How many places were new since the ledger was read."""


class ServerBounds:
    """Enforces the bound of places per day for one kind of sender.

    For each request call `are_known`. If it returns False, call `must_read`; if that returns True,
    pass what the ledger holds to `note_read`; then call `bound`.
    """

    def __init__(self, most: int, *, remembered: int = REMEMBERED) -> None:
        self._most = most
        self._remembered = remembered
        self._senders: OrderedDict[str, _Known] = OrderedDict()

    def are_known(self, sender: str, reports: Sequence[Report], *, now_millis: int) -> bool:
        """Tell whether the sender is known to have named all places of the request that day."""
        known = self._senders.get(sender)
        if known is None or known.day != now_millis // DAY_MILLIS:
            return False
        places = known.places
        if isinstance(reports, Columns):
            return places.issuperset(map(hash, reports.places))
        for each in reports:  # noqa: SIM110 - this is done for every report; a generator takes longer
            if hash((each.server, each.port, each.protocol)) not in places:
                return False
        return True

    def must_read(self, sender: str, reports: Sequence[Report], *, now_millis: int) -> bool:
        """Tell whether the ledger must be read before `bound`."""
        known = self._known(sender, now_millis)
        named = _places_of(reports)
        if named <= known.places or len(known.places) >= self._most:
            return False
        return known.unread + len(named - known.places) > self._most // SHARE

    def note_read(self, sender: str, places: Iterable[Place], *, now_millis: int) -> None:
        """Cache the places that a sender named today, as read from the ledger."""
        known = self._known(sender, now_millis)
        known.places.update(map(hash, places))
        known.places.discard(_OTHER)
        known.unread = 0

    def bound(
        self, sender: str, reports: Sequence[Report], *, now_millis: int
    ) -> tuple[Sequence[Report], int]:
        """Return the reports, with those beyond the bound under `other`, and how many these are."""
        known = self._known(sender, now_millis)
        places = known.places
        new = _places_of(reports) - places
        if not new:
            return reports, 0
        if len(places) + len(new) <= self._most:
            places |= new
            known.unread += len(new)
            return reports, 0
        return self._bound_each(known, reports)

    def _bound_each(self, known: _Known, reports: Sequence[Report]) -> tuple[Sequence[Report], int]:
        bounded: list[Report] = []
        moved = 0
        for report in reports:
            place = hash((report.server, report.port, report.protocol))
            if place not in known.places and place != _OTHER:
                if len(known.places) >= self._most:
                    bounded.append(_under_other(report))
                    moved += 1
                    continue
                known.places.add(place)
                known.unread += 1
            bounded.append(report)
        return bounded, moved

    def _known(self, sender: str, now_millis: int) -> _Known:
        day = now_millis // DAY_MILLIS
        known = self._senders.get(sender)
        if known is None or known.day != day:
            known = self._senders[sender] = _Known(day)
            if len(self._senders) > self._remembered:
                self._senders.popitem(last=False)
        self._senders.move_to_end(sender)
        return known


_OTHER = hash((OTHER_SERVER, OTHER_PORT, OTHER_PROTOCOL))


def _places_of(reports: Collection[Report]) -> set[int]:
    places = {hash((each.server, each.port, each.protocol)) for each in reports}
    places.discard(_OTHER)
    return places


def _under_other(report: Report) -> Report:
    return msgspec.structs.replace(
        report, server=OTHER_SERVER, port=OTHER_PORT, protocol=OTHER_PROTOCOL
    )
