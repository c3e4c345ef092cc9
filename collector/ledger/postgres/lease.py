"""Who leads among the collectors of one ledger: a row with a holder, a token and a deadline.

Deadlines are by the database's clock. Every transaction of the leader begins by moving the deadline
of the lease with its own token: where another has taken the lease since, it finds no row and writes
nothing, however long its process was frozen. The row stays locked until its end, so nobody takes
the lease in the middle of it.
"""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from datetime import datetime

from collector.errors import NotStoredError
from collector.ledger.postgres.link import Db
from collector.runtime.boot_clock import seconds_now

LEASE_SECONDS = 6.0
RENEW_SECONDS = 1.5
STUCK_LEASES = 3
# An epoch is given out once, also by a database that lacks the last ones: it goes on from what is
# known here, and with the time.
_TAKE = """
    UPDATE lease SET holder = %s, token = %s,
        epoch = greatest(epoch + 1, %s, (extract(epoch FROM clock_timestamp()) * 1000)::bigint),
        expires_at = clock_timestamp() + %s * interval '1 second'
    WHERE name = 'leader' AND token = %s AND epoch = %s RETURNING epoch
"""


class NotLeadingError(NotStoredError):
    """Another collector leads by now."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The lease as it is in the database."""

    token: str
    holder: str
    epoch: int
    expires_at: datetime
    is_expired: bool


class Lease:
    """This process's side of the lease. `is_held` is a guess; transactions know."""

    def __init__(self, seconds: float = LEASE_SECONDS) -> None:
        self.seconds = seconds
        self.holder = f"{socket.gethostname()}:{os.getpid()}"
        self.token: str | None = None
        self.epoch = 0
        self._highest_epoch = 0
        self._until_seconds = 0.0
        self._watched: tuple[Standing, float] | None = None

    @property
    def is_held(self) -> bool:
        """Whether this process led a moment ago and nobody can have taken the lease since."""
        return self.token is not None and seconds_now() < self._until_seconds

    @property
    def is_due(self) -> bool:
        """Whether the deadline should be moved, though there is nothing to do."""
        left_seconds = self._until_seconds - seconds_now()
        return left_seconds < self.seconds - RENEW_SECONDS

    def extend(self, db: Db) -> float:
        """Begin a transaction of the leader; NotLeadingError where another leads.

        Returns what `confirm` wants to know once it is committed.
        """
        started_at = seconds_now()
        row = None
        if self.token is not None:
            row = db.execute(
                "UPDATE lease SET expires_at = clock_timestamp() + %s * interval '1 second' "
                "WHERE name = 'leader' AND token = %s RETURNING epoch",
                (self.seconds, self.token),
            ).fetchone()
        if row is None:
            self.lose()
            raise NotLeadingError("another collector leads now")
        return started_at

    def confirm(self, started_at: float) -> None:
        """Note that a transaction which began by `extend` is committed."""
        self._until_seconds = max(self._until_seconds, started_at + self.seconds)

    def take(self, db: Db) -> bool:
        """Take the lease if it is free, or was ours; return whether; within a transaction.

        It has another token each time: what was stored under one was stored by one process, in one
        unbroken connection.
        """
        started_at, token = seconds_now(), secrets.token_hex(8)
        standing = standing_of(db)
        self._highest_epoch = max(self._highest_epoch, standing.epoch, self.epoch)
        is_free = standing.is_expired or standing.token == self.token or self._is_stuck(standing)
        if not is_free:
            return False
        row = db.execute(
            _TAKE,
            (
                *(self.holder, token, self._highest_epoch + 1, self.seconds),
                *(standing.token, standing.epoch),
            ),
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
        """Forget that this process leads."""
        self._until_seconds = 0.0

    def release(self, db: Db) -> None:
        """Let another collector lead at once."""
        db.execute(
            "UPDATE lease SET expires_at = clock_timestamp() "
            "WHERE name = 'leader' AND token = %s AND expires_at > clock_timestamp()",
            (self.token or "",),
        )
        self.token = None
        self.lose()


def standing_of(db: Db) -> Standing:
    """Return the lease as it is."""
    row = db.execute(
        "SELECT token, holder, epoch, expires_at, expires_at <= clock_timestamp() FROM lease "
        "WHERE name = 'leader'"
    ).fetchone()
    if row is None:
        raise NotStoredError("the ledger has no lease: was it restored in part?")
    return Standing(*row)
