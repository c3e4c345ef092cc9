"""Which collectors are running, and which partitions each of them adds up.

Every collector counts its beats in a row of its own, and watches the rows of the others by its own
clock: one whose count stands still for the length of a lease is gone, and one that is new here runs
from its next beat on. So a row that was restored with the database, or left by all that were
killed, has no partitions. From the same rows all come to the same division. While they disagree,
two may add up one partition, which does no harm, or a partition waits, until they agree again: for
a lease at most.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import NamedTuple

from collector.ledger.postgres.link import Db
from collector.runtime.boot_clock import seconds_now

BEAT_SECONDS = 1.5
READS_PER_BEAT = 3
FORGOTTEN_LEASES = 10
"""The row of a collector that is gone is removed after so many lengths of a lease."""


def share_of(me: str, running: Sequence[str], parts: Sequence[int]) -> list[int]:
    """Return the partitions of one of the running collectors: each has as many as the others, ±1.

    >>> share_of("a", ["b", "a"], [0, 1, 2]), share_of("b", ["a", "b"], [0, 1, 2])
    ([0, 2], [1])
    """
    ordered = sorted({*running, me})
    place = ordered.index(me)
    return [part for turn, part in enumerate(sorted(parts)) if turn % len(ordered) == place]


class _Seen(NamedTuple):
    """The row of another collector."""

    beats: int
    at_seconds: float
    """When it last changed, by this collector's clock, or was first read."""
    has_beaten: bool
    """Whether it has changed since it was first read."""


class Members:
    """The collectors of a ledger, as one of them sees them; for one thread at a time."""

    def __init__(self, *, holder: str, lease_seconds: float) -> None:
        self.name = secrets.token_hex(8)
        self.is_able = True
        """Whether this collector can add up; while it cannot, it has others take its partitions."""
        self._holder = holder
        self._lease_seconds = lease_seconds
        self._beat_at_seconds = 0.0
        self._read_at_seconds = 0.0
        self._seen: dict[str, _Seen] = {}
        self._is_listed = False
        self.others = 0
        """How many other collectors run, as `share` found."""

    def share(self, db: Db, parts: Sequence[int]) -> list[int]:
        """Beat if it is time, and return the partitions that are this collector's now."""
        now_seconds = seconds_now()
        if self.is_able and now_seconds - self._beat_at_seconds >= self._beat_seconds:
            db.execute(
                "INSERT INTO adder AS a (token, holder, beats) VALUES (%s, %s, 1) "
                "ON CONFLICT (token) DO UPDATE SET beats = a.beats + 1",
                (self.name, self._holder),
            )
            self._beat_at_seconds, self._is_listed = now_seconds, True
        if now_seconds - self._read_at_seconds >= self._beat_seconds / READS_PER_BEAT:
            self._look(db, now_seconds)
        gone = self._gone_for(self._lease_seconds, now_seconds)
        running = [name for name, it in self._seen.items() if it.has_beaten and name not in gone]
        self.others = len(running)
        return share_of(self.name, running, parts)

    def _look(self, db: Db, now_seconds: float) -> None:
        """Read the others' beats, and remove those that are long gone."""
        self._read_at_seconds = now_seconds
        rows = db.execute("SELECT token, beats FROM adder").fetchall()
        self._note(dict(rows), now_seconds)
        for name in self._gone_for(FORGOTTEN_LEASES * self._lease_seconds, now_seconds):
            beats = self._seen.pop(name).beats
            db.execute("DELETE FROM adder WHERE token = %s AND beats = %s", (name, beats))

    @property
    def _beat_seconds(self) -> float:
        return min(BEAT_SECONDS, self._lease_seconds / 4)

    def _note(self, beats: dict[str, int], now_seconds: float) -> None:
        for name, count in beats.items():
            known = self._seen.get(name)
            if name != self.name and (known is None or known.beats != count):
                self._seen[name] = _Seen(count, now_seconds, has_beaten=known is not None)
        for name in self._seen.keys() - beats.keys():
            del self._seen[name]

    def _gone_for(self, seconds: float, now_seconds: float) -> list[str]:
        return [name for name, it in self._seen.items() if now_seconds - it.at_seconds > seconds]

    def leave(self, db: Db) -> None:
        """Remove this collector, so that the others take its partitions within a second."""
        if self._is_listed:
            db.execute("DELETE FROM adder WHERE token = %s", (self.name,))
