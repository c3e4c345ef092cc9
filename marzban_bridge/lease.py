"""Who leads among the bridges of one store: a row with a holder, a token, an epoch and a deadline.

Deadlines are by the database's clock. Every transaction of the leader moves the deadline of the
lease with its own token: where another has taken the lease since, it finds no row and writes
nothing, however long its process was frozen. The row stays locked until its end, so nobody takes
the lease in the middle of it. Each is one statement, so that whoever is frozen holds no lock.
"""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from collector.boot_clock import seconds_now
from marzban_bridge.errors import NotLeadingError, StoreAwayError

if TYPE_CHECKING:  # the driver is an extra
    from marzban_bridge.postgres_link import Db

LEASE_SECONDS = 10.0
RENEW_SECONDS = 1.0
STUCK_LEASES = 3
MOVE_DEADLINE = (
    "UPDATE lease SET expires_at = clock_timestamp() + %s * interval '1 second' "
    "WHERE name = 'leader' AND token = %s RETURNING epoch"
)
"""The fence; with what `Lease.fence` says."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The lease as it is in the database."""

    token: str
    holder: str
    epoch: int
    expires_at: datetime
    is_expired: bool


class Lease:
    """This process's side of the lease. What it believes is a guess; transactions know."""

    def __init__(self, seconds: float = LEASE_SECONDS) -> None:
        self.seconds = seconds
        self.holder = f"{socket.gethostname()}:{os.getpid()}"
        self.token: str | None = None
        self.epoch = 0
        self.standing: Standing | None = None
        """The lease as it was seen last by `take`."""
        self._until_seconds = 0.0
        self._watched: tuple[Standing, float] | None = None

    @property
    def until_seconds(self) -> float:
        """Until when, by `seconds_now`, nobody else can have taken the lease; 0 without it."""
        return self._until_seconds if self.token is not None else 0.0

    @property
    def is_held(self) -> bool:
        """Whether this process leads, and nobody can have taken the lease since."""
        return seconds_now() < self.until_seconds

    @property
    def fence(self) -> tuple[float, str]:
        """The values for MOVE_DEADLINE."""
        return self.seconds, self.token or "-"

    def extend(self, db: Db) -> None:
        """Move the deadline; NotLeadingError where another leads."""
        started_at = seconds_now()
        row = db.execute(MOVE_DEADLINE, self.fence).fetchone()
        self.moved(started_at, is_mine=row is not None)

    def moved(self, started_at: float, *, is_mine: bool) -> None:
        """Note what came of a transaction that was begun then and is committed.

        Raises NotLeadingError where it found no row.
        """
        if not is_mine:
            self.lose()
            raise NotLeadingError("another bridge has taken the lease")
        self._until_seconds = max(self._until_seconds, started_at + self.seconds)

    def take(self, db: Db) -> bool:
        """Take the lease if it is free, or was ours; return whether.

        It has another token each time.
        """
        started_at, token = seconds_now(), secrets.token_hex(8)
        standing = self.standing = standing_of(db)
        is_ours = self.token is not None and standing.token == self.token
        if not (standing.is_expired or is_ours or self._is_stuck(standing)):
            return False
        row = db.execute(
            "UPDATE lease SET holder = %s, token = %s, epoch = epoch + 1, "
            "expires_at = clock_timestamp() + %s * interval '1 second' "
            "WHERE name = 'leader' AND token = %s AND epoch = %s RETURNING epoch",
            (self.holder, token, self.seconds, standing.token, standing.epoch),
        ).fetchone()
        if row is None:
            return False
        self.token, self.epoch, self._until_seconds = token, int(row[0]), started_at + self.seconds
        return True

    def _is_stuck(self, standing: Standing) -> bool:
        """Tell whether the deadline has stood still beyond all patience, by this process's clock.

        A leader moves it all the time. One that lies hours ahead is left over from before the
        database's clock was set back.
        """
        now_seconds = seconds_now()
        if self._watched is None or self._watched[0] != standing:
            self._watched = (standing, now_seconds)
        return now_seconds - self._watched[1] > STUCK_LEASES * self.seconds

    def lose(self) -> None:
        """Forget that this process leads; it still knows its token."""
        self._until_seconds = 0.0

    def release(self, db: Db, *, after_seconds: float = 0.0) -> None:
        """Let another bridge lead at once, or when so much time has passed."""
        (_, token), self.token = self.fence, None
        self.lose()
        db.execute(
            "UPDATE lease SET token = '', "
            "expires_at = clock_timestamp() + %s * interval '1 second' "
            "WHERE name = 'leader' AND token = %s",
            (min(after_seconds, self.seconds), token),
        )


def standing_of(db: Db) -> Standing:
    """Return the lease as it is."""
    row = db.execute(
        "SELECT token, holder, epoch, expires_at, expires_at <= clock_timestamp() FROM lease "
        "WHERE name = 'leader'"
    ).fetchone()
    if row is None:
        raise StoreAwayError("the store has no lease: was it restored in part?")
    return Standing(*row)
