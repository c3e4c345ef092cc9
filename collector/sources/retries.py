"""Is a push a retry: for senders that try again without saying so; pure.

A push without an id gets one from its node, its content and when it was first seen, in steps as
long as the window. What was first seen within the last window lies in this step or in the one
before, so the two ids it may have can be looked up in the ledger, also by a collector that has
just been started. The same content after a window lies in another step, and gets another id.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

MAX_REMEMBERED = 10_000


def content_of(*, reporter: str, node: str, body: bytes) -> str:
    """Name a push by who pushed it and what it says, byte for byte."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (reporter.encode(), node.encode()):
        digest.update(part + b"\x1f")
    digest.update(body)
    return digest.hexdigest()


def ids_of(content: str, *, now_millis: int, window_millis: int) -> tuple[str, str]:
    """Return the id of a push first seen now, and the one if it was first seen a step ago."""
    step = now_millis // window_millis
    return f"{content}/{step}", f"{content}/{step - 1}"


@dataclass(frozen=True, slots=True)
class Seen:
    """A push that was seen: under which id, first when, and for how long it is remembered."""

    message_id: str
    first_millis: int
    window_millis: int

    def is_within_window(self, now_millis: int) -> bool:
        """Tell whether the same push is a retry now, whichever way clocks went."""
        return abs(now_millis - self.first_millis) < self.window_millis


class RecentPushes:
    """The pushes of the last few windows, so that tries that overlap are known to be one."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, Seen] = OrderedDict()

    def find(self, content: str) -> Seen | None:
        """Return what is known of a push; it may be of long ago."""
        return self._seen.get(content)

    def note(self, content: str, seen: Seen, *, now_millis: int) -> None:
        """Remember a push, and forget those that can be no retry's first try any more."""
        self._seen[content] = seen
        self._seen.move_to_end(content)
        while self._seen:
            oldest = next(iter(self._seen.values()))
            is_old = abs(now_millis - oldest.first_millis) >= 2 * oldest.window_millis
            if not is_old and len(self._seen) <= MAX_REMEMBERED:
                return
            self._seen.popitem(last=False)
