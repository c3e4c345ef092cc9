"""Whether something the bridge depends on is away, and how long to leave it alone."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


class Outage:
    """One dependency's state: up or down, with the pause before the next try.

    Logs and counts only when the state changes.
    """

    def __init__(
        self,
        name: str,
        *,
        reason: str | None = "not reached yet",
        longest_pause_seconds: float = 30,
    ) -> None:
        self.name = name
        self.reason = reason
        self._longest_pause_seconds = longest_pause_seconds
        self._pause_seconds = 0.0
        self._was_logged = False

    @property
    def is_up(self) -> bool:
        """Whether the last call went well."""
        return self.reason is None

    def recovered(self) -> None:
        """Note that a call went well."""
        if self._was_logged:
            log.warning("%s is back", self.name)
        self.reason, self._pause_seconds, self._was_logged = None, 0.0, False

    def failed(self, reason: str, *, asked_seconds: float | None = None) -> float:
        """Note a failure and return how many seconds to pause, no less than were asked for."""
        self.reason = reason
        if not self._was_logged:
            log.error("%s: %s; will keep trying", self.name, reason)
            self._was_logged = True
        self._pause_seconds = min(max(0.5, self._pause_seconds * 2), self._longest_pause_seconds)
        return max(self._pause_seconds, asked_seconds or 0.0)
