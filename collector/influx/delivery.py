"""Delivers a batch of lines, and finds the ones InfluxDB refuses by writing halves.

One refused line must not block the others. Halves are written until the refused line is alone.
Lines that are written twice on the way overwrite the same points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from collector.influx.outcome import Drop, Halt, Outcome, Retry, Split, Stored

Write = Callable[[Sequence[str]], Outcome]


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that InfluxDB will never store, and why."""

    line: str
    reason: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """The outcome if every line is stored or refused."""

    refused: tuple[Refused, ...] = ()
    expired: tuple[str, ...] = ()
    """Lines that the bucket would not keep any more; they are not among the refused."""


Result = Delivered | Retry | Halt


def deliver(lines: Sequence[str], write: Write) -> Result:
    """Write lines until each is stored or refused; stop at the first Retry or Halt.

    After Retry or Halt the whole batch is to be delivered again.
    """
    refused: list[Refused] = []
    expired: list[str] = []
    waiting = [lines] if lines else []
    while waiting:
        batch = waiting.pop()
        outcome = write(batch)
        match outcome:
            case Stored():
                continue
            case Drop(is_expired=True):
                expired += batch
            case Drop(reason):
                refused += [Refused(line, reason) for line in batch]
            case Split():
                middle = len(batch) // 2
                waiting += [batch[middle:], batch[:middle]]
            case Retry() | Halt():
                return outcome
    return Delivered(tuple(refused), tuple(expired))


class PageDelivery:
    """Delivers the requests of a page, several at a time.

    After the first Retry or Halt no further one is sent: the whole page is to be delivered again.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self._fault: Retry | Halt | None = None

    def deliver(self, lines: Sequence[str]) -> Result:
        """Deliver one of the requests, unless another one met a fault."""
        if self._fault is not None:
            return self._fault
        result = deliver(lines, self._write)
        if not isinstance(result, Delivered):
            self._fault = result
        return result


def merge(results: Iterable[Result]) -> Result:
    """Return the result of a page, given those of its requests: a fault of one is that of all."""
    refused: list[Refused] = []
    expired: list[str] = []
    for each in results:
        if not isinstance(each, Delivered):
            return each
        refused += each.refused
        expired += each.expired
    return Delivered(tuple(refused), tuple(expired))
