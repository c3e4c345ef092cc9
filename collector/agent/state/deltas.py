"""Cumulative counters → traffic since the last look; pure.

A source that says it began anew was restarted: all that its counters show is new. So is a counter
that fell, unless the source says since when it has been running, and that it has not begun anew:
then the lower value is a misreading, and what was read highest stays what the next is compared
with. The first sample of a source only says where to begin. A counter that appears later began at
nothing after the sample before, so it counts in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from collector.agent.errors import SourceError
from collector.agent.state.counters import Counter, Life, Sample

MOST_FORMER = 8
"""So many starts of before are remembered."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a counter stood at when it was last looked at."""

    upload_bytes: int
    download_bytes: int


@dataclass(frozen=True, slots=True)
class Known:
    """What the sample before said."""

    baselines: Mapping[str, Baseline]
    life: Life
    former_starts: tuple[str, ...] = ()
    """Of the lives before this one, the last of them at the end."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What a user of a source has used since the sample before."""

    counter: Counter
    upload_bytes: int
    download_bytes: int


@dataclass(frozen=True, slots=True)
class Advance:
    """What a sample brings: traffic, and what to compare the next one with."""

    deltas: tuple[Delta, ...]
    known: Known
    restarts: int
    """Counters, or the source as one, that began anew."""
    fallen: tuple[str, ...] = ()
    """Counters that show less than they did, though their source runs on."""


def advance(known: Known | None, sample: Sample, *, count_first: bool = False) -> Advance:
    """Compare a sample with the one before; None is before the first.

    `count_first` counts what the first sample shows instead of beginning there. Raises SourceError
    for a sample that cannot be compared: one that no longer says since when its counters count, or
    says that they began when those of an earlier life did.
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
            "it does not say any more since when its counters count, as it did before; nothing is "
            "counted until it does"
        )
    if not life.is_after(known.life):
        return False
    if life.started in known.former_starts:
        raise SourceError(
            f"it says it began before, at {life.started}, and had begun anew since: are there two "
            "servers behind one address? Nothing of this one is counted"
        )
    return True


def _former_starts(known: Known | None, *, is_new_life: bool) -> tuple[str, ...]:
    if known is None:
        return ()
    left = (known.life.started,) if is_new_life and known.life.started is not None else ()
    return (*known.former_starts, *left)[-MOST_FORMER:]


def _since(value: int, base: int) -> int:
    return value if value < base else value - base
