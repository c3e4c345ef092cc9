"""Computes traffic from cumulative counters and their baselines; pure.

The cases:

- the first sample of a source: the values become the baselines, no traffic;
- the source was restarted: the whole values are traffic. It was if it states another start or fewer
  ticks, if its uptime is shorter than the time since the sample before, if a sum over all users
  fell to less than half, or, where all counters begin at zero with the process, if one of them fell
  or is missing;
- the source was not restarted, and a counter is higher than its baseline: the difference is
  traffic;
- it is lower, and the source states the same start: a wrong value, no traffic, and the baseline
  stays at the highest value;
- it is lower, and the sums over all users fell a little with it: a crash set it to what the source
  last wrote to a file; its baseline becomes the lower value;
- it is lower otherwise, in one direction or both: the counter was reset, and both whole values are
  traffic;
- a new counter in a later sample: it began at zero, and the whole value is traffic.

A counter that fell proves no restart if another counter has an unchanged value that is too large to
be reached again by chance: then a tool has reset some counters, and not all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from collector.agent.errors import SourceError
from collector.agent.state.counters import Counter, Life, PollTime, Sample

MOST_FORMER = 8
"""How many earlier start times are stored."""
UNCHANGED_BYTES = 2**20
"""A counter of so many bytes that did not change was not reset."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The last value of a counter (the highest one of its run)."""

    upload_bytes: int
    download_bytes: int


_ZERO = Baseline(0, 0)


@dataclass(frozen=True, slots=True)
class Known:
    """The previous sample."""

    baselines: Mapping[str, Baseline]
    life: Life
    former_starts: tuple[str, ...] = ()
    """Start times of the runs before, newest last."""
    polled: PollTime | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """The traffic of a user of a source since the previous sample."""

    counter: Counter
    upload_bytes: int
    download_bytes: int


@dataclass(frozen=True, slots=True)
class Advance:
    """The result of a sample: its traffic, and the new baselines."""

    deltas: tuple[Delta, ...]
    known: Known
    restarts: int
    """How many counters were reset; 1 for a restart of the source."""
    fallen: tuple[str, ...] = ()
    """Counters that are lower than before, though their source was not restarted."""


def advance(known: Known | None, sample: Sample, *, count_first: bool = False) -> Advance:
    """Compare a sample with the previous one; None if there is none.

    With `count_first` the values of the first sample are traffic, too. Raises SourceError for a
    sample that cannot be compared: it lacks the start time that earlier ones had, or it has the
    start time of an earlier run.
    """
    is_new_life = known is not None and _is_new_life(known, sample)
    before = {} if known is None or is_new_life else dict(known.baselines)
    is_same_life = known is not None and sample.life.has_start_of(known.life)
    is_restored = known is not None and sample.life.is_restored(known.life)
    counts = known is not None or count_first
    deltas, fallen = [], []
    restarts = int(is_new_life)
    after = dict(before)
    for counter in sample.counters:
        base = before.get(counter.name, _ZERO)
        shown = Baseline(counter.upload_bytes, counter.download_bytes)
        if _is_below(shown, base):
            if is_same_life:
                fallen.append(counter.name)
                shown = Baseline(
                    max(shown.upload_bytes, base.upload_bytes),
                    max(shown.download_bytes, base.download_bytes),
                )
            elif is_restored:
                fallen.append(counter.name)
                base = Baseline(
                    min(shown.upload_bytes, base.upload_bytes),
                    min(shown.download_bytes, base.download_bytes),
                )
            else:
                restarts += 1
                base = _ZERO
        upload_bytes = shown.upload_bytes - base.upload_bytes
        download_bytes = shown.download_bytes - base.download_bytes
        if counts and (upload_bytes or download_bytes):
            deltas.append(Delta(counter, upload_bytes, download_bytes))
        after[counter.name] = shown
    former_starts = _former_starts(known, is_new_life=is_new_life)
    known_now = Known(after, sample.life, former_starts, sample.polled)
    return Advance(tuple(deltas), known_now, restarts, tuple(fallen))


def _is_new_life(known: Known, sample: Sample) -> bool:
    life = sample.life
    if life.says_less_than(known.life):
        raise SourceError(
            "it no longer tells its start time, as it did before; nothing is counted until it does"
        )
    if life.is_after(known.life):
        if life.started in known.former_starts:
            raise SourceError(
                f"its start time is {life.started}, that of a run before a restart: are there two "
                "servers at one address? This sample is not counted"
            )
        return True
    if life.has_start_of(known.life):
        return False
    return life.began_between(known.polled, sample.polled) or _are_reset(known, sample)


def _are_reset(known: Known, sample: Sample) -> bool:
    """Tell whether a counter that fell or is missing proves that all of them began at zero."""
    if not sample.is_of_one_process:
        return False
    shown = {
        each.name: Baseline(each.upload_bytes, each.download_bytes) for each in sample.counters
    }
    missing = _ZERO if not sample.skipped else None
    is_reset = False
    for name, base in known.baselines.items():
        value = shown.get(name, missing)
        if value is None:  # it may be one of the rows that could not be parsed
            continue
        if value == base and base.upload_bytes + base.download_bytes >= UNCHANGED_BYTES:
            return False
        is_reset = is_reset or _is_below(value, base)
    return is_reset


def _is_below(value: Baseline, base: Baseline) -> bool:
    return value.upload_bytes < base.upload_bytes or value.download_bytes < base.download_bytes


def _former_starts(known: Known | None, *, is_new_life: bool) -> tuple[str, ...]:
    if known is None:
        return ()
    left = (known.life.started,) if is_new_life and known.life.started is not None else ()
    return (*known.former_starts, *left)[-MOST_FORMER:]
