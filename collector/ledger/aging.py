"""The age of reports by the time that collectors ran, independent of the wall clock; pure.

A wall clock may jump. So a report is purged, with its id, only if it is old by both: by the wall
clock, and by how long collectors of the ledger ran since it arrived. For that the ledger keeps a
few marks: at a certain running time, the last report had a certain seq.
"""

from __future__ import annotations

import json
from typing import NamedTuple, Self

MARKS_PER_WINDOW = 64
LEAST_STEP_MILLIS = 1000


class Mark(NamedTuple):
    """The running time at which the last report had a seq."""

    ran_millis: int
    seq: int


class Ages(NamedTuple):
    """The total running time of a ledger's collectors, and its marks, oldest first."""

    ran_millis: int = 0
    marks: tuple[Mark, ...] = ()

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """Parse the stored text; None means that all reports arrived just now."""
        if text is None:
            return cls()
        ran_millis, marks = json.loads(text)
        return cls(int(ran_millis), tuple(Mark(int(ran), int(seq)) for ran, seq in marks))

    def format(self) -> str:
        """Return the text that `parse` reads."""
        return json.dumps(self)

    def later(self, *, ran_millis: int, seq: int, kept_millis: int) -> Self:
        """Return the ages after collectors ran `ran_millis` longer, when the last report has a seq.

        Of the marks older than `kept_millis` only the newest is kept.
        """
        now_millis = self.ran_millis + max(0, ran_millis)
        step_millis = max(LEAST_STEP_MILLIS, kept_millis // MARKS_PER_WINDOW)
        marks = self.marks
        if not marks or now_millis - marks[-1].ran_millis >= step_millis:
            marks = (*marks, Mark(now_millis, seq))
        old = [each for each in marks if each.ran_millis <= now_millis - kept_millis]
        return type(self)(now_millis, marks[max(0, len(old) - 1) :])

    def old_through(self, *, kept_millis: int) -> int:
        """Return the seq up to which reports are older than `kept_millis` of running time."""
        return max(
            (each.seq for each in self.marks if each.ran_millis <= self.ran_millis - kept_millis),
            default=0,
        )
