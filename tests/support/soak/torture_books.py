"""What the torture of senders found: the ledger against what was counted, and a row for each lie."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from rich.table import Table

from tests.support.collector.lying_proxy import DOWN


class Bounds(NamedTuple):
    """The bytes of each user that are sure to be counted, and those that may be besides."""

    least: Mapping[str, int]
    most: Mapping[str, int]
    """Of a user that is not sure: whole, or not at all."""


def more_than_counted(ledger: Mapping[str, int], bounds: Bounds) -> list[str]:
    """Return the users who have more in the ledger than was ever counted."""
    most = bounds.most
    return [
        f"{user} has {found} of {most.get(user, 0)}"
        for user, found in ledger.items()
        if found > most.get(user, 0)
    ]


def not_balanced(ledger: Mapping[str, int], bounds: Bounds) -> list[str]:
    """Return the users whose bytes in the ledger are not what they are to be after quiet."""
    wrong = [
        f"{user}: {ledger.get(user, 0)} instead of {used}"
        for user, used in bounds.least.items()
        if ledger.get(user, 0) != used
    ]
    return wrong + [
        f"{user}: {found} of {bounds.most.get(user, 0)}, which may be there whole or not at all"
        for user, found in ledger.items()
        if user not in bounds.least and found != bounds.most.get(user, 0)
    ]


@dataclass
class Row:
    """What became of one lie, over all its phases."""

    phases: int = 0
    requests: int = 0
    accidents: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    told_seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    well_seconds: list[float] = field(default_factory=list)
    faults: int = 0


def table_of(rows: Mapping[str, Row]) -> Table:
    """Return a table with a row for each lie."""
    table = Table(title="By what the proxy answered", title_justify="left")
    for column in ("answer", "phases", "requests", "accidents", "told after s", "well after s"):
        table.add_column(column)
    table.add_column("faults", justify="right")
    for name, row in rows.items():
        told = [each for seconds in row.told_seconds.values() for each in seconds]
        accidents = [f"{each} {what}" for what, each in row.accidents.items() if what != "none"]
        table.add_row(
            name,
            str(row.phases),
            str(row.requests) if name != DOWN else "-",
            ", ".join(accidents),
            f"{min(told):.1f}-{max(told):.1f}" if told else "never",
            f"{max(row.well_seconds):.1f}" if row.well_seconds else "never",
            str(row.faults),
        )
    return table
