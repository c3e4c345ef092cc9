"""The partitions that one collector adds up, each over a connection of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from collector.errors import NotStoredError
from collector.ledger.postgres.link import Db, Link
from collector.ledger.postgres.sums.members import Members
from collector.ledger.postgres.sums.partitions import (
    ADDED_REPORTS,
    Positions,
    add_up,
    positions,
)
from collector.runtime.boot_clock import seconds_now

HALTED_SECONDS = 2.0
"""A partition that does not move on for so long is added up by the leader as well: the collector
whose it is may be gone. If it only takes long, this does no harm."""


class Adders:
    """What a collector adds up; `add_up` is called by one thread for each partition."""

    def __init__(self, new_link: Callable[[], Link], *, holder: str, lease_seconds: float) -> None:
        self._new_link = new_link
        self._members = Members(holder=holder, lease_seconds=lease_seconds)
        self._links: dict[int, Link] = {}
        self._failing: set[int] = set()
        self._first_seen: dict[int, tuple[int, float]] = {}
        """The first number that was not added up, for each partition, and since when it is."""
        self.is_settled = False
        """Whether all numbered reports are in the sums."""
        self.behind: Sequence[int] = ()
        """The partitions of this collector with numbered reports that are not added up."""

    @property
    def others(self) -> int:
        """How many other collectors run, as `look` found."""
        return self._members.others

    def look(self, db: Db, found: Positions, *, takes_part: bool, leads: bool) -> None:
        """Note how far the partitions are, and which of them are this collector's.

        It has none unless it `takes_part`, since `add_up` is called for its partitions then. The
        one that `leads` also has each partition that has come to a halt.
        """
        self.is_settled = not found.behind
        if not takes_part:
            self.behind = ()
            return
        halted = self._halted(found.behind)
        self._members.is_able = not self._failing
        mine = self._members.share(db, found.parts)
        mine += halted if leads else []
        self.behind = [part for part in found.behind if part in mine]
        self._failing.intersection_update(self.behind)

    def _halted(self, behind: Mapping[int, int]) -> list[int]:
        """Return the partitions that are where they were HALTED_SECONDS ago, and behind."""
        now_seconds = seconds_now()
        known, self._first_seen = self._first_seen, {}
        for part, first in behind.items():
            first_then, since_seconds = known.get(part, (first, now_seconds))
            is_same = first == first_then
            self._first_seen[part] = (first, since_seconds if is_same else now_seconds)
        return [
            part
            for part, (_, since_seconds) in self._first_seen.items()
            if now_seconds - since_seconds > HALTED_SECONDS
        ]

    def add_up(self, part: int) -> bool:
        """Add up numbered reports of a partition; return whether there may be more of them.

        Raises NotStoredError; the other collectors then take over this one's partitions.
        """
        link = self._links.get(part)
        if link is None:
            link = self._links[part] = self._new_link()
        try:
            reports = link.run(lambda db: add_up(db, part, waits=False))
        except NotStoredError:
            self._failing.add(part)
            raise
        self._failing.discard(part)
        return reports >= ADDED_REPORTS

    def add_all(self, link: Link, *, waits: bool) -> None:
        """Add up all numbered reports of all partitions over a connection, one by one.

        What another process adds up now is left to it, or with `waits` waited for.
        """
        for part in link.ask(positions).behind:
            while link.run(lambda db, part=part: add_up(db, part, waits=waits)):  # type: ignore[misc]
                pass

    def leave(self, db: Db) -> None:
        """Have the other collectors take over this one's partitions within a second."""
        self._members.leave(db)

    def close(self) -> None:
        """Close the connections."""
        for link in self._links.values():
            link.close()
