"""A spool with ten reports, and what a test takes from its lanes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from collector.client.outbox import Item, Outbox
from collector.client.spool.spool import REPORTS, Spool


@contextmanager
def spool_of_ten(folder: Path) -> Iterator[Spool]:
    """Open a spool in which reports 0 to 9 wait."""
    with closing(Spool(folder)) as spool:
        spool.put(REPORTS, [(str(n), b"1") for n in range(10)])
        yield spool


def ids(items: Iterable[Item]) -> str:
    """Return the items' ids, one behind the other."""
    return "".join(each.item_id for each in items)


def take(lane: Outbox, most_items: int = 3) -> list[Item]:
    """Take the first items of a lane."""
    return lane.first(most_items=most_items, most_bytes=1000)
