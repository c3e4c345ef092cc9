"""How many bytes a sender may report in a request, an hour and a day; pure.

Hours and days are of UTC, by when reports arrive. What a sender reported is in the ledger. To read
it there for every request would cost too much. So it is remembered, and read again before a sender
gets through with more than a share of its bound since the last reading. A restart, or a further
collector on the same ledger, lets a sender have that share more at most: see decision 0017.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from collector.reports.sender_days import HOUR_MILLIS, HOURS_PER_DAY, SenderBytes, day_of

SHARE = 16
"""One part in so many of the hour's bound may pass before the ledger is read again."""
READ_AGAIN_MILLIS = 1000
"""A sender is refused by what was read so long ago at most."""
LONGEST_WAIT_SECONDS = 3600.0
"""No sender is told to wait longer, in case the bound is raised meanwhile."""
REMEMBERED = 100_000


class Bounds(NamedTuple):
    """The most bytes, up and down together, that one sender may report."""

    settings: str
    """What the names of the settings begin with."""
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
    """A request would bring its sender beyond a bound, and when to come again."""

    span: str
    bound_bytes: int
    retry_after_seconds: float


@dataclass(slots=True)
class _Known:
    """What is known of one sender."""

    hour: int
    hour_bytes: int = 0
    day_bytes: int = 0
    unread_bytes: int = 0
    """Let through since the ledger was read."""
    pending_bytes: int = 0
    """Let through, and not known to be stored or not."""
    let_through_bytes: int = 0
    """Since this sender is remembered."""
    read_at_millis: int | None = None

    def turn(self, hour: int) -> None:
        """Begin another hour, and another day with it."""
        if hour != self.hour:
            if day_of(hour) != day_of(self.hour):
                self.day_bytes = 0
            self.hour, self.hour_bytes = hour, 0


class Reading(NamedTuple):
    """Where a sender was when the ledger began to be read; what came after is not in it."""

    hour: int
    pending_bytes: int
    let_through_bytes: int


class ByteBounds:
    """Holds senders of one kind to their bounds.

    For each request that `passes_at_once` does not let through: `must_read`, and then the ledger is
    read between `begin_reading` and `note_read`; `let_through`. Once the outcome of a request is
    known, `settle`.
    """

    def __init__(self, bounds: Bounds, *, remembered: int = REMEMBERED) -> None:
        self.bounds = bounds
        self._share_bytes = bounds.hour_bytes // SHARE
        self._remembered = remembered
        self._senders: OrderedDict[str, _Known] = OrderedDict()

    def passes_at_once(self, sender: str, amount_bytes: int, *, now_millis: int) -> bool:
        """Let a request through, as `let_through` does, if a glance shows that nothing is near."""
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
        """Tell whether the ledger has to be read before a request can be decided about."""
        known = self._known(sender, now_millis)
        if self._beyond(known, amount_bytes, now_millis) is None:
            return known.unread_bytes + amount_bytes > self._share_bytes
        read_at_millis = known.read_at_millis
        return read_at_millis is None or not (
            0 <= now_millis - read_at_millis < READ_AGAIN_MILLIS and not known.unread_bytes
        )

    def begin_reading(self, sender: str, *, now_millis: int) -> Reading:
        """Note what the ledger may not show yet."""
        known = self._known(sender, now_millis)
        return Reading(known.hour, known.pending_bytes, known.let_through_bytes)

    def note_read(
        self, sender: str, reading: Reading, found: SenderBytes, *, now_millis: int
    ) -> None:
        """Take over what the ledger holds; what was pending meanwhile is counted beside it."""
        known = self._known(sender, now_millis)
        if known.hour != reading.hour:
            return
        since_bytes = known.let_through_bytes - reading.let_through_bytes
        known.unread_bytes = reading.pending_bytes + since_bytes
        known.hour_bytes = found.hour_bytes + known.unread_bytes
        known.day_bytes = found.day_bytes + known.unread_bytes
        known.read_at_millis = now_millis

    def let_through(self, sender: str, amount_bytes: int, *, now_millis: int) -> Beyond | None:
        """Count a request, to be settled later; or say which bound it would be beyond."""
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
        """Note that a request that was let through is stored, or is not."""
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
