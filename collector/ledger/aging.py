"""How old reports are by the time that collectors ran, whatever the wall clock says; pure.

A wall clock may jump. What is dropped because it is old, and its id with it, has therefore to be
old by both: by the clock, and by how long collectors of the ledger ran since it came. The ledger
keeps a few marks for that: when so much time had been run, the reports went up to this seq.
"""

from __future__ import annotations

import json
from typing import NamedTuple, Self

MARKS_PER_WINDOW = 64
LEAST_STEP_MILLIS = 1000


class Mark(NamedTuple):
    """How long collectors had run when reports went up to a seq."""

    ran_millis: int
    seq: int


class Ages(NamedTuple):
    """How long collectors of a ledger ran in all, and its marks, oldest first."""

    ran_millis: int = 0
    marks: tuple[Mark, ...] = ()

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """Read what a ledger keeps; nothing kept is a ledger whose reports all came just now."""
        if text is None:
            return cls()
        ran_millis, marks = json.loads(text)
        return cls(int(ran_millis), tuple(Mark(int(ran), int(seq)) for ran, seq in marks))

    def format(self) -> str:
        """Return the text that `parse` reads."""
        return json.dumps(self)

    def later(self, *, ran_millis: int, seq: int, kept_millis: int) -> Self:
        """Return the ages after a collector ran so much longer, and reports go up to a seq.

        What is older than `kept_millis` needs one mark, the others are dropped.
        """
        now_millis = self.ran_millis + max(0, ran_millis)
        step_millis = max(LEAST_STEP_MILLIS, kept_millis // MARKS_PER_WINDOW)
        marks = self.marks
        if not marks or now_millis - marks[-1].ran_millis >= step_millis:
            marks = (*marks, Mark(now_millis, seq))
        old = [each for each in marks if each.ran_millis <= now_millis - kept_millis]
        return type(self)(now_millis, marks[max(0, len(old) - 1) :])

    def old_through(self, *, kept_millis: int) -> int:
        """Return the seq up to which reports came before so much of the time that was run."""
        return max(
            (each.seq for each in self.marks if each.ran_millis <= self.ran_millis - kept_millis),
            default=0,
        )
