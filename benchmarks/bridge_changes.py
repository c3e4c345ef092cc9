"""Changes of users at an even pace, and how soon each arrives in the panel."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bridge_processes import Stack

TICK_SECONDS = 0.1
"""How often reports are sent; those of one tick go in one request."""
DRAIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is reported of whom, and how often."""

    order: Iterator[str]
    amount_bytes: int
    per_minute: float
    crossing: Iterator[str] = field(default_factory=lambda: iter(()))
    """Users who use up their quota, each once."""
    crossing_bytes: int = 0
    crossings_per_minute: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """When changes were reported, by user (`time.monotonic`)."""

    changes: dict[str, float] = field(default_factory=dict)
    crossings: dict[str, float] = field(default_factory=dict)


def send(it: Stack, changes: Changes, *, until: float) -> Sent:
    """Report changes until a moment; return when each was sent."""
    sent = Sent()
    began_at = time.monotonic()
    counts = [0, 0]
    kinds = (
        (changes.order, changes.per_minute, changes.amount_bytes, sent.changes),
        (changes.crossing, changes.crossings_per_minute, changes.crossing_bytes, sent.crossings),
    )
    while (now := time.monotonic()) < until:
        for place, (order, per_minute, amount_bytes, times) in enumerate(kinds):
            due = int((now - began_at) * per_minute / 60) - counts[place]
            names = [next(order) for _ in range(due)]
            counts[place] += due
            if names:
                times.update(dict.fromkeys(names, time.monotonic()))
                it.report(names, amount_bytes=amount_bytes)
        time.sleep(max(0.0, now + TICK_SECONDS - time.monotonic()))
    return sent


def latencies(it: Stack, sent_at: Mapping[str, float]) -> list[float]:
    """Wait for the last changes; return the seconds from each report to its PUT at the panel."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while True:
        written_at = it.counted()["written_at"]
        found = [
            written_at[name] - at for name, at in sent_at.items() if _after(written_at, name, at)
        ]
        if len(found) == len(sent_at) or time.monotonic() > deadline:
            return found
        time.sleep(1)


def _after(written_at: Mapping[str, float], name: str, at: float) -> bool:
    return written_at.get(name, 0.0) > at


def describe(seconds: Sequence[float], *, sent: int) -> str:
    """Say how fast reports became limits in the panel, and how many did not within a minute."""
    if not seconds:
        return "-" if not sent else f"none of {sent:,}"
    millis = sorted(each * 1000 for each in seconds)
    p99 = millis[int(len(millis) * 0.99)]
    missing = f"; {sent - len(seconds):,} of {sent:,} not" if len(seconds) < sent else ""
    return f"{statistics.median(millis):,.0f} / {p99:,.0f} ms{missing}"
