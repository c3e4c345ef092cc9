"""Detects a ledger that was restored from a copy, even if it has grown past the cursor since.

Each page of the feed has the writer runs of the collector, with the change number at which each
began. A change that was read from one run cannot belong to another run, unless the ledger was
restored from a copy and written to again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_RUNS = 1000
"""The number of runs that the collector keeps."""


@dataclass(frozen=True, slots=True)
class WriterRun:
    """One run of the collector's process: it stored all changes after a seq, up to the next run."""

    after_seq: int
    token: str


def learn(
    known: Sequence[WriterRun], runs: Sequence[WriterRun], *, cursor: int
) -> tuple[WriterRun, ...]:
    """Return the runs that stored what was read up to the cursor, oldest first.

    Later ones are not kept: their reports were not read, so that losing them loses us nothing.
    """
    by_seq = {each.after_seq: each for each in (*known, *runs) if each.after_seq < cursor}
    return tuple(by_seq[seq] for seq in sorted(by_seq))[-MAX_RUNS:]


def went_back(
    known: Sequence[WriterRun], runs: Sequence[WriterRun], *, cursor: int, head: int
) -> bool:
    """Tell whether a ledger does not continue what was read of it up to the cursor.

    `runs` begins with the run that stored the change at the cursor. False if a run is unknown to
    either side: the ledger is of an earlier version, or does not keep that run any more.
    """
    ours = learn(known, (), cursor=cursor)[-1:]
    theirs = learn((), runs, cursor=cursor)[-1:]
    return head < cursor or bool(ours and theirs and ours != theirs)


def last_shared_seq(known: Sequence[WriterRun], runs: Sequence[WriterRun], *, head: int) -> int:
    """Return the change number up to which a restored ledger has the changes that were read.

    `runs` are all of its runs. It is 0, so that no change is trusted, if no run is known to both.
    """
    if not known:  # read from a collector that did not say
        return head
    shared = [each.after_seq for each in known if each in runs]
    if not shared:
        return 0
    return min([head, *(each.after_seq for each in runs if each.after_seq > shared[-1])])
