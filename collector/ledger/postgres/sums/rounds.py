"""When the leader numbers reports: in rounds, so that readers get to see every user.

A reader is given a user when all partitions have got as far as the user's last change. Were one
partition behind the others all the time, a user of another one whose reports keep coming would be
ahead of it all the time. So further reports are numbered when all numbered ones are added up, or a
second after the last ones; and once ROUND_REPORTS are not added up, not before all of them are.

A round is a commit of the leader and one for each partition, however few reports there are. So
rounds are GATHER_SECONDS apart, unless a reader waits for the sums.
"""

from __future__ import annotations

from collector.ledger.postgres.database import MOST_AHEAD_REPORTS
from collector.ledger.postgres.sums.numbering import NUMBERED_REPORTS

ROUND_REPORTS = MOST_AHEAD_REPORTS - 2 * NUMBERED_REPORTS
ROUND_SECONDS = 1.0
GATHER_SECONDS = 0.4


class Rounds:
    """Decides whether to number now; from values alone."""

    def __init__(self) -> None:
        self._is_draining = False
        self._numbered_at_seconds = 0.0

    def may_number(self, *, ahead: int, now_seconds: float, is_awaited: bool = False) -> bool:
        """Tell whether to number, where so many reports are numbered and not added up."""
        self._is_draining = ahead > 0 and (self._is_draining or ahead >= ROUND_REPORTS)
        if self._is_draining:
            return False
        pause_seconds = ROUND_SECONDS if ahead else 0.0 if is_awaited else GATHER_SECONDS
        return now_seconds - self._numbered_at_seconds >= pause_seconds

    def numbered(self, now_seconds: float) -> None:
        """Note that reports were numbered."""
        self._numbered_at_seconds = now_seconds
