"""The kinds of databases that take line protocol, and in what they differ for us."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import StrEnum

from collector.schema import EVENTS, USER_LISTS, Policy


class TargetKind(StrEnum):
    """A kind of database that points are written to."""

    INFLUXDB = "influxdb"
    """InfluxDB 2.x, or another one with its route for writing: 1.8 and later, Cloud 2."""
    INFLUXDB3 = "influxdb3"
    """InfluxDB 3: databases in place of buckets, which it makes by itself, and no deletion."""
    VICTORIAMETRICS = "victoriametrics"
    """VictoriaMetrics: milliseconds, numbers alone, one retention, and nothing is overwritten."""

    @property
    def product(self) -> str:
        """What people call it."""
        return _PRODUCTS[self]

    @property
    def policies(self) -> tuple[Policy, ...]:
        """The streams that are exported to it: sums of days grow, so they must be overwritten."""
        return (Policy.RAW,) if self is TargetKind.VICTORIAMETRICS else tuple(Policy)

    @property
    def overwrites(self) -> bool:
        """Whether a point takes the place of one with the same series and time."""
        return self is not TargetKind.VICTORIAMETRICS

    @property
    def needs_token(self) -> bool:
        """Whether a write always needs a token."""
        return self is not TargetKind.VICTORIAMETRICS

    @property
    def reason_not_to_delete(self) -> str:
        """Why points cannot be deleted by their age; empty if they can."""
        return _DELETE_NOTHING.get(self, "")

    @property
    def reason_without_dashboards(self) -> str:
        """Why our dashboards do not read it, or not all; empty if they do."""
        return _WITHOUT_DASHBOARDS.get(self, "")


_PRODUCTS = {
    TargetKind.INFLUXDB: "InfluxDB",
    TargetKind.INFLUXDB3: "InfluxDB 3",
    TargetKind.VICTORIAMETRICS: "VictoriaMetrics",
}
_DELETE_NOTHING = {
    TargetKind.INFLUXDB3: (
        "InfluxDB 3 deletes no points by their age but by the retention of its databases"
    ),
    TargetKind.VICTORIAMETRICS: (
        "VictoriaMetrics deletes no points by their age but by its -retentionPeriod"
    ),
}
_WITHOUT_DASHBOARDS = {
    TargetKind.VICTORIAMETRICS: (
        "the dashboards Overview, User, Servers and Resellers, and the alert rules about users, "
        "ask in InfluxQL, which VictoriaMetrics does not answer; Operations and Alerts work"
    ),
}
_LISTED = f"{USER_LISTS.name},"
_EVENT = f"{EVENTS.name},"
_END_OF_SERIES = re.compile(r"(?<!\\) ")
_FIELD = re.compile(
    r'(?P<name>(?:[^\\=,]|\\.)+)=(?:"(?:[^"\\]|\\.)*"|(?P<number>[^,"]+)),?', re.DOTALL
)


def numbers_only(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines without their text fields, and not those that say nothing without them.

    VictoriaMetrics would store a text as the number 0.
    """
    for line in lines:
        if '"' not in line:
            yield line
        elif not line.startswith((_LISTED, _EVENT)):
            series, fields = _END_OF_SERIES.split(line, maxsplit=1)
            fields, _, timestamp = fields.rpartition(" ")
            numbers = [
                f"{each['name']}={each['number']}"
                for each in _FIELD.finditer(fields)
                if each["number"] is not None
            ]
            if numbers:
                yield f"{series} {','.join(numbers)} {timestamp}"
