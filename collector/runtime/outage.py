"""The outage of something that is retried: its reason, its backoff, and one log line per change."""

from __future__ import annotations

import logging

from collector.runtime.pace import Pace

_log = logging.getLogger(__name__)


class Outage:
    """Whether one thing works; up until it is shown otherwise, unless a first `reason` is given.

    Logs when it stops working and when it works again, and nothing in between; with `tells_all`
    also each new reason. `fails` (with one `%s`, for the reason) and `works` are what is logged.
    """

    def __init__(
        self,
        name: str,
        *,
        fails: str | None = None,
        works: str | None = None,
        reason: str | None = None,
        pace: Pace | None = None,
        log: logging.Logger = _log,
        levels: tuple[int, int] = (logging.ERROR, logging.WARNING),
        tells_all: bool = False,
    ) -> None:
        self.name = name
        self.reason = reason
        """Why it does not work, for people; None while it does."""
        self._fails = fails or f"{name}: %s; will keep trying"
        self._works = works or f"{name} is back"
        self._pace = pace or Pace(first_seconds=0.5, longest_seconds=30.0)
        self._log = log
        self._fails_level, self._works_level = levels
        self._tells_all = tells_all
        self._logged: str | None = None

    @property
    def is_up(self) -> bool:
        """Whether the last try went well."""
        return self.reason is None

    def recovered(self) -> None:
        """Note that a try went well."""
        if self._logged is not None:
            self._log.log(self._works_level, "%s", self._works)
        self.forget()

    def forget(self) -> None:
        """Reset without logging, since it is not retried any more."""
        self.reason, self._logged = None, None
        self._pace.succeed()

    def failed(
        self,
        reason: str,
        *,
        asked_seconds: float | None = None,
        defect: BaseException | None = None,
        is_told_if_new: bool = False,
    ) -> float:
        """Note a failure and return how many seconds to pause, no less than were asked for.

        `defect` is logged with its traceback: a failure that is the program's own. With
        `is_told_if_new` this reason is logged, too, if another one was logged last.
        """
        self.reason = reason
        tells_new = self._tells_all or is_told_if_new
        if self._logged is None or (tells_new and self._logged != reason):
            text = self._fails.replace("%s", reason, 1)
            self._log.log(self._fails_level, "%s", text, exc_info=defect)
            self._logged = reason
        return self._pace.wait_seconds(asked_seconds=asked_seconds)
