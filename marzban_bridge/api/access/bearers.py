"""Remembers which bearer tokens a panel accepted or refused, and limits checks of new tokens.

Pure, given a clock reading. Tokens are stored as hashes, in bounded memory.
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
    """Allows every check of a token that the panel accepted before, and few checks of new tokens.

    An accepted token is checked with the panel at each request, since it may have been revoked,
    and is not rate limited. A refused token is refused for some seconds without a check.
    """

    def __init__(self) -> None:
        self._accepted: OrderedDict[bytes, None] = OrderedDict()
        self._refused_until_seconds: OrderedDict[bytes, float] = OrderedDict()
        self._strangers = Strangers(total_per_second=TOTAL_PER_SECOND, total_burst=TOTAL_BURST)

    def is_refused(self, panel: str, bearer: str, *, now_seconds: float) -> bool:
        """Tell whether a panel refused a token within the last seconds."""
        until_seconds = self._refused_until_seconds.get(_key(panel, bearer), 0.0)
        return until_seconds - REFUSED_SECONDS <= now_seconds < until_seconds

    def take(self, panel: str, bearer: str, *, address: str, now_seconds: float) -> float:
        """Take a permit to check a token; return 0 if granted, else the seconds to wait."""
        if _key(panel, bearer) in self._accepted:
            return 0.0
        return self._strangers.take(address, now_seconds=now_seconds)

    def note_accepted(self, panel: str, bearer: str, *, address: str, now_seconds: float) -> None:
        """Record that a panel accepted a token."""
        key = _key(panel, bearer)
        if key not in self._accepted:
            self.note_unanswered(panel, bearer, address=address, now_seconds=now_seconds)
        self.introduce(panel, bearer)

    def introduce(self, panel: str, bearer: str) -> None:
        """Record a token that a panel has just issued."""
        key = _key(panel, bearer)
        self._refused_until_seconds.pop(key, None)
        self._accepted.pop(key, None)
        self._accepted[key] = None
        if len(self._accepted) > REMEMBERED:
            self._accepted.popitem(last=False)

    def note_refused(self, panel: str, bearer: str, *, now_seconds: float) -> None:
        """Record for some seconds that a panel refused a token."""
        key = _key(panel, bearer)
        self._accepted.pop(key, None)
        self._refused_until_seconds.pop(key, None)
        self._refused_until_seconds[key] = now_seconds + REFUSED_SECONDS
        if len(self._refused_until_seconds) > REMEMBERED:
            self._refused_until_seconds.popitem(last=False)

    def note_unanswered(self, panel: str, bearer: str, *, address: str, now_seconds: float) -> None:
        """Give the permit of a check back: the panel did not answer it."""
        if _key(panel, bearer) not in self._accepted:
            self._strangers.give_back(address, now_seconds=now_seconds)


def _key(panel: str, bearer: str) -> bytes:
    return hashlib.sha256(f"{panel}\x1f{bearer}".encode()).digest()
