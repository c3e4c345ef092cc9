"""Computes traffic from cumulative counters and their baselines; pure.

The cases, for each counter of a sample:

- the first sample of a source: the value becomes the baseline, no traffic;
- the source was restarted: the whole value is traffic;
- the counter is higher than its baseline: the difference is traffic;
- it is lower, and the source has told that it was not restarted: a wrong value, no traffic, and the
  baseline stays at the highest value;
- it is lower otherwise: the counter was reset, the whole value is traffic;
- a new counter in a later sample: it began at zero, the whole value is traffic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from collector.agent.errors import SourceError
from collector.agent.state.counters import Counter, Life, Sample

MOST_FORMER = 8
"""How many earlier start times are kept."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The last value of a counter (the highest one of its run)."""

    upload_bytes: int
    download_bytes: int


@dataclass(frozen=True, slots=True)
class Known:
    """The previous sample."""

    baselines: Mapping[str, Baseline]
    life: Life
    former_starts: tuple[str, ...] = ()
    """Start times of the runs before, newest last."""


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
    is_new_life = known is not None and _is_new_life(known, sample.life)
    before = {} if known is None or is_new_life else dict(known.baselines)
    is_same_life = known is not None and sample.life.has_start_of(known.life)
    counts = known is not None or count_first
    deltas, fallen = [], []
    restarts = int(is_new_life)
    after = dict(before)
    for counter in sample.counters:
        base = before.get(counter.name, Baseline(0, 0))
        shown = Baseline(counter.upload_bytes, counter.download_bytes)
        fell = shown.upload_bytes < base.upload_bytes or shown.download_bytes < base.download_bytes
        if fell and is_same_life:
            fallen.append(counter.name)
            shown = Baseline(
                max(shown.upload_bytes, base.upload_bytes),
                max(shown.download_bytes, base.download_bytes),
            )
        elif fell:
            restarts += 1
        upload_bytes = _since(shown.upload_bytes, base.upload_bytes)
        download_bytes = _since(shown.download_bytes, base.download_bytes)
        if counts and (upload_bytes or download_bytes):
            deltas.append(Delta(counter, upload_bytes, download_bytes))
        after[counter.name] = shown
    known_now = Known(after, sample.life, _former_starts(known, is_new_life=is_new_life))
    return Advance(tuple(deltas), known_now, restarts, tuple(fallen))


def _is_new_life(known: Known, life: Life) -> bool:
    if life.says_less_than(known.life):
        raise SourceError(
            "it no longer tells its start time, as it did before; nothing is counted until it does"
        )
    if not life.is_after(known.life):
        return False
    if life.started in known.former_starts:
        raise SourceError(
            f"its start time is {life.started}, that of a run before a restart: are there two "
            "servers at one address? This sample is not counted"
        )
    return True


def _former_starts(known: Known | None, *, is_new_life: bool) -> tuple[str, ...]:
    if known is None:
        return ()
    left = (known.life.started,) if is_new_life and known.life.started is not None else ()
    return (*known.former_starts, *left)[-MOST_FORMER:]


def _since(value: int, base: int) -> int:
    return value if value < base else value - base
