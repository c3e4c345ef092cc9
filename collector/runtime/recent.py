"""A bounded list of names with a recent event; pure, given a clock reading."""

from __future__ import annotations

from collections import OrderedDict

MOST_NAMES = 1000
KEPT_SECONDS = 3600.0


class RecentNames:
    """Keeps each name for an hour after it was last noted; the oldest are dropped if too many."""

    def __init__(self, *, kept_seconds: float = KEPT_SECONDS, most_names: int = MOST_NAMES) -> None:
        self._kept_seconds = kept_seconds
        self._most_names = most_names
        self._noted_at: OrderedDict[str, float] = OrderedDict()

    def note(self, name: str, *, now_seconds: float) -> bool:
        """Note a name; return whether it was not among the recent ones: worth a line in the log."""
        self._forget(now_seconds)
        is_news = self._noted_at.pop(name, None) is None
        self._noted_at[name] = now_seconds
        if len(self._noted_at) > self._most_names:
            self._noted_at.popitem(last=False)
        return is_news

    def names(self, *, now_seconds: float) -> list[str]:
        """Return the recent names, the one noted longest ago first."""
        self._forget(now_seconds)
        return list(self._noted_at)

    def _forget(self, now_seconds: float) -> None:
        while self._noted_at:
            noted_at = next(iter(self._noted_at.values()))
            if now_seconds - noted_at < self._kept_seconds:
                return
            self._noted_at.popitem(last=False)
