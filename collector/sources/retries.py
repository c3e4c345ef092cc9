"""Recognises retries of pushes that have no id; pure.

Time is divided into steps as long as the retry window. A push without an id gets one from its node,
its content and the step in which it was first seen. A push that was first seen within the last
window is of this step or of the one before. So a collector that was just started can look up both
ids in the ledger. The same content after the window gets another id.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

MAX_REMEMBERED = 10_000


def content_of(*, reporter: str, node: str, body: bytes) -> str:
    """Return a digest of a push: reporter, node and body."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (reporter.encode(), node.encode()):
        digest.update(part + b"\x1f")
    digest.update(body)
    return digest.hexdigest()


def ids_of(content: str, *, now_millis: int, window_millis: int) -> tuple[str, str]:
    """Return the ids of a push that was first seen in this step, and in the one before."""
    step = now_millis // window_millis
    return f"{content}/{step}", f"{content}/{step - 1}"


@dataclass(frozen=True, slots=True)
class Seen:
    """A push that was seen: its id, the time of its first try, and when to forget it."""

    message_id: str
    first_millis: int
    window_millis: int

    def is_within_window(self, now_millis: int) -> bool:
        """Tell whether the same push is a retry now, also if the clock was set back."""
        return abs(now_millis - self.first_millis) < self.window_millis


class RecentPushes:
    """The pushes of the last few windows, to recognise retries that overlap with the first try."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, Seen] = OrderedDict()

    def find(self, content: str) -> Seen | None:
        """Return the push if it was seen; it may be older than the window."""
        return self._seen.get(content)

    def note(self, content: str, seen: Seen, *, now_millis: int) -> None:
        """Remember a push, and forget those older than the windows."""
        self._seen[content] = seen
        self._seen.move_to_end(content)
        while self._seen:
            oldest = next(iter(self._seen.values()))
            is_old = abs(now_millis - oldest.first_millis) >= 2 * oldest.window_millis
            if not is_old and len(self._seen) <= MAX_REMEMBERED:
                return
            self._seen.popitem(last=False)
