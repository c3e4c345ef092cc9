"""Which bearer tokens a panel accepted or refused before, and how many new ones it is asked about.

Pure, given a clock reading. Tokens are remembered by hash, in bounded memory.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from collector.runtime.http.strangers import Strangers

TOTAL_PER_SECOND = 5.0
TOTAL_BURST = 60.0
REFUSED_SECONDS = 30.0
REMEMBERED = 10_000


class Bearers:
    """Lets the panel be asked about every token it accepted, and about few that are new.

    A token that was accepted is never held up by strangers; the panel is still asked about it each
    time, since it may have been withdrawn. One that was refused is refused for some seconds more
    without asking.
    """

    def __init__(self) -> None:
        self._accepted: OrderedDict[bytes, None] = OrderedDict()
        self._refused_until_seconds: OrderedDict[bytes, float] = OrderedDict()
        self._strangers = Strangers(total_per_second=TOTAL_PER_SECOND, total_burst=TOTAL_BURST)

    def is_refused(self, panel: str, bearer: str, *, now_seconds: float) -> bool:
        """Tell whether a panel refused a token a moment ago."""
        until_seconds = self._refused_until_seconds.get(_key(panel, bearer), 0.0)
        return until_seconds - REFUSED_SECONDS <= now_seconds < until_seconds

    def take(self, panel: str, bearer: str, *, address: str, now_seconds: float) -> float:
        """Take one question to a panel; return 0 if it may be asked, else in how many seconds."""
        if _key(panel, bearer) in self._accepted:
            return 0.0
        return self._strangers.take(address, now_seconds=now_seconds)

    def note_accepted(self, panel: str, bearer: str, *, address: str, now_seconds: float) -> None:
        """Remember that a panel accepted a token that it was asked about."""
        key = _key(panel, bearer)
        if key not in self._accepted:
            self.note_unanswered(panel, bearer, address=address, now_seconds=now_seconds)
        self.introduce(panel, bearer)

    def introduce(self, panel: str, bearer: str) -> None:
        """Remember a token that a panel has just made."""
        key = _key(panel, bearer)
        self._refused_until_seconds.pop(key, None)
        self._accepted.pop(key, None)
        self._accepted[key] = None
        if len(self._accepted) > REMEMBERED:
            self._accepted.popitem(last=False)

    def note_refused(self, panel: str, bearer: str, *, now_seconds: float) -> None:
        """Remember for a while that a panel refused a token."""
        key = _key(panel, bearer)
        self._accepted.pop(key, None)
        self._refused_until_seconds.pop(key, None)
        self._refused_until_seconds[key] = now_seconds + REFUSED_SECONDS
        if len(self._refused_until_seconds) > REMEMBERED:
            self._refused_until_seconds.popitem(last=False)

    def note_unanswered(self, panel: str, bearer: str, *, address: str, now_seconds: float) -> None:
        """Hold a question that the panel did not answer against nobody's address."""
        if _key(panel, bearer) not in self._accepted:
            self._strangers.give_back(address, now_seconds=now_seconds)


def _key(panel: str, bearer: str) -> bytes:
    return hashlib.sha256(f"{panel}\x1f{bearer}".encode()).digest()
