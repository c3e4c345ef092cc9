"""Bounds of the bytes a sender may report per request, hour and day; pure.

Hours and days are UTC, by arrival. What a sender reported is in the ledger, but reading it there
for each request costs too much. So it is cached, and read again before a sender has passed more
than a share of its bound since the last read. After a restart, or with another collector on the
same ledger, a sender may exceed its bound by that share: see decision 0017.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from collector.reports.sender_days import HOUR_MILLIS, HOURS_PER_DAY, SenderBytes, day_of

SHARE = 16
"""The ledger is read again once 1/SHARE of the hour's bound has passed."""
READ_AGAIN_MILLIS = 1000
"""A sender is refused only by values that were read at most this long ago."""
LONGEST_WAIT_SECONDS = 3600.0
"""The longest `Retry-After`, in case the bound is raised meanwhile."""
REMEMBERED = 100_000


class Bounds(NamedTuple):
    """The most bytes, both directions, that one sender may report."""

    settings: str
    """The prefix of the settings' names."""
    request_bytes: int
    hour_bytes: int
    day_bytes: int

    def setting_of(self, span: str) -> str:
        """Return the setting that holds the bound of a `request`, an `hour` or a `day`."""
        return f"{self.settings}_{span.upper()}_BYTES"

    def bytes_of(self, span: str) -> int:
        """Return the bound of a `request`, an `hour` or a `day`."""
        return {"request": self.request_bytes, "hour": self.hour_bytes, "day": self.day_bytes}[span]


class Beyond(NamedTuple):
    """A request that would exceed a bound of its sender, and when to retry."""

    span: str
    bound_bytes: int
    retry_after_seconds: float


@dataclass(slots=True)
class _Known:
    """The cached bytes of one sender."""

    hour: int
    hour_bytes: int = 0
    day_bytes: int = 0
    unread_bytes: int = 0
    """Bytes let through since the ledger was read."""
    pending_bytes: int = 0
    """Bytes let through whose outcome is not known yet."""
    let_through_bytes: int = 0
    """Bytes let through since this sender is cached."""
    read_at_millis: int | None = None

    def turn(self, hour: int) -> None:
        """Reset the hour's bytes, and the day's in another day."""
        if hour != self.hour:
            if day_of(hour) != day_of(self.hour):
                self.day_bytes = 0
            self.hour, self.hour_bytes = hour, 0


class Reading(NamedTuple):
    """A sender's counters at the start of a read of the ledger, which may miss later bytes."""

    hour: int
    pending_bytes: int
    let_through_bytes: int


class ByteBounds:
    """Enforces the bounds of one kind of sender.

    For each request call `passes_at_once`. If it returns False, call `must_read`; if that returns
    True, read the ledger between `begin_reading` and `note_read`; then call `let_through`. Once the
    outcome of a request is known, call `settle`.
    """

    def __init__(self, bounds: Bounds, *, remembered: int = REMEMBERED) -> None:
        self.bounds = bounds
        self._share_bytes = bounds.hour_bytes // SHARE
        self._remembered = remembered
        self._senders: OrderedDict[str, _Known] = OrderedDict()

    def passes_at_once(self, sender: str, amount_bytes: int, *, now_millis: int) -> bool:
        """Let a request through, as `let_through` does, if the cache shows room enough."""
        known = self._senders.get(sender)
        if (
            known is None
            or known.hour != now_millis // HOUR_MILLIS
            or known.unread_bytes + amount_bytes > self._share_bytes
            or known.hour_bytes + amount_bytes > self.bounds.hour_bytes
            or known.day_bytes + amount_bytes > self.bounds.day_bytes
        ):
            return False
        self._count(known, amount_bytes)
        return True

    def must_read(self, sender: str, amount_bytes: int, *, now_millis: int) -> bool:
        """Tell whether the ledger must be read to decide about a request."""
        known = self._known(sender, now_millis)
        if self._beyond(known, amount_bytes, now_millis) is None:
            return known.unread_bytes + amount_bytes > self._share_bytes
        read_at_millis = known.read_at_millis
        return read_at_millis is None or not (
            0 <= now_millis - read_at_millis < READ_AGAIN_MILLIS and not known.unread_bytes
        )

    def begin_reading(self, sender: str, *, now_millis: int) -> Reading:
        """Note the counters that the following read of the ledger may not include."""
        known = self._known(sender, now_millis)
        return Reading(known.hour, known.pending_bytes, known.let_through_bytes)

    def note_read(
        self, sender: str, reading: Reading, found: SenderBytes, *, now_millis: int
    ) -> None:
        """Cache what was read; bytes that were pending during the read are added."""
        known = self._known(sender, now_millis)
        if known.hour != reading.hour:
            return
        since_bytes = known.let_through_bytes - reading.let_through_bytes
        known.unread_bytes = reading.pending_bytes + since_bytes
        known.hour_bytes = found.hour_bytes + known.unread_bytes
        known.day_bytes = found.day_bytes + known.unread_bytes
        known.read_at_millis = now_millis

    def let_through(self, sender: str, amount_bytes: int, *, now_millis: int) -> Beyond | None:
        """Count a request, to be settled later; or return the bound that it would exceed."""
        known = self._known(sender, now_millis)
        if beyond := self._beyond(known, amount_bytes, now_millis):
            return beyond
        self._count(known, amount_bytes)
        return None

    def _count(self, known: _Known, amount_bytes: int) -> None:
        known.hour_bytes += amount_bytes
        known.day_bytes += amount_bytes
        known.unread_bytes += amount_bytes
        known.pending_bytes += amount_bytes
        known.let_through_bytes += amount_bytes

    def settle(self, sender: str, amount_bytes: int) -> None:
        """Note that the outcome of a request is known: stored or not."""
        known = self._senders.get(sender)
        if known is not None:
            known.pending_bytes = max(0, known.pending_bytes - amount_bytes)

    def _beyond(self, known: _Known, amount_bytes: int, now_millis: int) -> Beyond | None:
        bounds, into_hour_millis = self.bounds, now_millis % HOUR_MILLIS
        if known.day_bytes + amount_bytes > bounds.day_bytes:
            hours_left = HOURS_PER_DAY - 1 - known.hour % HOURS_PER_DAY
            left_millis = (hours_left + 1) * HOUR_MILLIS - into_hour_millis
            return Beyond("day", bounds.day_bytes, min(LONGEST_WAIT_SECONDS, left_millis / 1000))
        if known.hour_bytes + amount_bytes > bounds.hour_bytes:
            left_millis = HOUR_MILLIS - into_hour_millis
            return Beyond("hour", bounds.hour_bytes, left_millis / 1000)
        return None

    def _known(self, sender: str, now_millis: int) -> _Known:
        hour = now_millis // HOUR_MILLIS
        known = self._senders.get(sender)
        if known is None:
            known = self._senders[sender] = _Known(hour)
            if len(self._senders) > self._remembered:
                self._senders.popitem(last=False)
        else:
            self._senders.move_to_end(sender)
            known.turn(hour)
        return known
