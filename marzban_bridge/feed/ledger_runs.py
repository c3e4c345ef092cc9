"""Tells a ledger that went on from one that was restored from a copy, whatever it holds by now.

The collector says with each page of the feed which of its runs stored what. What was read as stored
by one run cannot have been stored by another, unless the ledger went back to a copy and went on
from there. Such a ledger may have regrown past everything that was read, with other reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_RUNS = 1000
"""As many as the collector remembers."""


@dataclass(frozen=True, slots=True)
class WriterRun:
    """One life of the collector's process: it stored all after a seq, up to the next run."""

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
    """Tell whether a ledger is no continuation of what was read of it up to the cursor.

    `runs` begins with the run that stored what the cursor names. Nothing is told from a run that
    either side does not know: a ledger of an earlier version, or one that has forgotten it.
    """
    ours = learn(known, (), cursor=cursor)[-1:]
    theirs = learn((), runs, cursor=cursor)[-1:]
    return head < cursor or bool(ours and theirs and ours != theirs)


def last_shared_seq(known: Sequence[WriterRun], runs: Sequence[WriterRun], *, head: int) -> int:
    """Return up to where a ledger that went back holds what was read of it.

    `runs` are all it has. It is 0, which calls everything in doubt, where no run is known to both.
    """
    if not known:  # read from a collector that did not say
        return head
    shared = [each.after_seq for each in known if each in runs]
    if not shared:
        return 0
    return min([head, *(each.after_seq for each in runs if each.after_seq > shared[-1])])
