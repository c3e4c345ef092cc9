"""Cumulative counters → traffic since the last look; pure.

A counter that fell, or a source that says it began anew, was restarted: all of its value is new.
The first reading of a source only says where to begin. A counter that appears later began at
nothing after the reading before, so it counts in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from collector.agent.counters import Counter, Life, Reading


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a counter stood at when it was last looked at."""

    upload_bytes: int
    download_bytes: int


@dataclass(frozen=True, slots=True)
class Known:
    """What the reading before said."""

    baselines: Mapping[str, Baseline]
    life: Life


@dataclass(frozen=True, slots=True)
class Delta:
    """What a user of a source has used since the reading before."""

    counter: Counter
    upload_bytes: int
    download_bytes: int


@dataclass(frozen=True, slots=True)
class Advance:
    """What a reading brings: traffic, and what to compare the next one with."""

    deltas: tuple[Delta, ...]
    known: Known
    restarts: int
    """Counters, or the source as one, that began anew."""


def advance(known: Known | None, reading: Reading, *, count_first: bool = False) -> Advance:
    """Compare a reading with the one before; None is before the first.

    `count_first` counts what the first reading shows instead of beginning there.
    """
    is_new_life = known is not None and reading.life.is_after(known.life)
    before = {} if known is None or is_new_life else dict(known.baselines)
    counts = known is not None or count_first
    deltas = []
    restarts = int(is_new_life)
    after = dict(before)
    for counter in reading.counters:
        base = before.get(counter.name, Baseline(0, 0))
        upload_bytes, up_restarted = _since(counter.upload_bytes, base.upload_bytes)
        download_bytes, down_restarted = _since(counter.download_bytes, base.download_bytes)
        restarts += up_restarted or down_restarted
        if counts and (upload_bytes or download_bytes):
            deltas.append(Delta(counter, upload_bytes, download_bytes))
        after[counter.name] = Baseline(counter.upload_bytes, counter.download_bytes)
    return Advance(tuple(deltas), Known(after, reading.life), restarts)


def _since(value: int, base: int) -> tuple[int, bool]:
    return (value, True) if value < base else (value - base, False)
