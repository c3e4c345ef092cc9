"""Who leads among the bridges of one store: a row with a holder, a token, an epoch and a deadline.

Deadlines are by the database's clock. Every transaction of the leader moves the deadline of the
lease with its own token: where another has taken the lease since, it finds no row and writes
nothing, however long its process was frozen. The row stays locked until its end, so nobody takes
the lease in the middle of it. Each is one statement, so that whoever is frozen holds no lock.

The row also counts the leader's commits, and keeps the counts of former leaders (`store_terms`). A
leader's fence asks for the commits that it knows of: where a standby took over without them,
nothing is written on top.
"""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from collector.runtime.boot_clock import seconds_now
from marzban_bridge.errors import NotLeadingError, StoreAwayError
from marzban_bridge.store.terms import MAX_FORMER_LENGTH, TOKEN_BYTES, Term, lacks

if TYPE_CHECKING:  # the driver is an extra
    from marzban_bridge.store.postgres.link import Db

LEASE_SECONDS = 10.0
RENEW_SECONDS = 1.0
STUCK_LEASES = 3
MOVE_DEADLINE = (
    "UPDATE lease SET expires_at = clock_timestamp() + %s * interval '1 second' "
    "WHERE name = 'leader' AND token = %s AND commits >= %s RETURNING commits, loss"
)
COUNT_COMMIT = (
    "UPDATE lease SET expires_at = clock_timestamp() + %s * interval '1 second', "
    "commits = commits + 1 "
    "WHERE name = 'leader' AND token = %s AND commits >= %s RETURNING commits, loss"
)
"""The fence of what is written; both with what `Lease.fence` says."""
# An epoch is given out once, also by a database that lacks the last ones: it goes on from what is
# known here, and with the time.
_TAKE = """
    UPDATE lease SET holder = %s, token = %s,
        epoch = greatest(epoch + 1, %s, (extract(epoch FROM clock_timestamp()) * 1000)::bigint),
        expires_at = clock_timestamp() + %s * interval '1 second',
        commits = 0,
        former = CASE WHEN token = '' THEN former
            ELSE right(former || ' ' || token || ':' || commits, %s) END
    WHERE name = 'leader' AND token = %s AND epoch = %s RETURNING epoch
"""
_RELEASE = """
    UPDATE lease SET token = '', commits = 0,
        expires_at = clock_timestamp() + %s * interval '1 second',
        former = right(former || ' ' || token || ':' || commits, %s)
    WHERE name = 'leader' AND token = %s
"""


@dataclass(frozen=True, slots=True)
class Standing:
    """The lease as it is in the database."""

    token: str
    holder: str
    epoch: int
    expires_at: datetime
    is_expired: bool
    commits: int
    """How many of its leader's are in the store."""
    former: str
    """The same of former leaders."""
    loss: str
    """What a bridge that follows has found missing, for the leader to know; mostly empty."""
    mark: str
    """The place in which the store was last led; empty after an earlier version."""


class Lease:
    """This process's side of the lease. What it believes is a guess; transactions know."""

    def __init__(self, seconds: float = LEASE_SECONDS) -> None:
        self.seconds = seconds
        self.holder = f"{socket.gethostname()}:{os.getpid()}"
        self.token: str | None = None
        self.epoch = 0
        self.standing: Standing | None = None
        """The lease as it was seen last by `take`."""
        self.known: Term | None = None
        """The newest commit that this process has seen in the store."""
        self.marks: set[str] = set()
        """The places in which this process has seen the store and would miss whatever is lost."""
        self.missing: Term | None = None
        """What this process has seen in the store and the store lacks, until that is stored."""
        self.loss = ""
        """What another process has found missing, until that is stored."""
        self._highest_epoch = 0
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
    def fence(self) -> tuple[float, str, int]:
        """The values for MOVE_DEADLINE and COUNT_COMMIT."""
        is_own = self.known is not None and self.known.token == self.token
        return self.seconds, self.token or "-", self.known.commits if self.known and is_own else 0

    def extend(self, db: Db) -> None:
        """Move the deadline; NotLeadingError where another leads."""
        started_at = seconds_now()
        self.moved(started_at, db.execute(MOVE_DEADLINE, self.fence).fetchone())

    def moved(self, started_at: float, row: tuple[int, str] | None) -> None:
        """Note what came of a transaction that was begun then and is committed.

        `row` is what its fence returned. Raises NotLeadingError where it found no row.
        """
        if row is None:
            self.lose()
            raise NotLeadingError(
                "another bridge has taken the lease, or the database lacks commits of this one"
            )
        self._until_seconds = max(self._until_seconds, started_at + self.seconds)
        commits, self.loss = row
        if self.token:
            self.known = Term(self.token, commits)

    def take(self, db: Db) -> bool:
        """Take the lease if it is free, or was ours; return whether.

        It has another token each time. What the store lacks is in `missing` then.
        """
        started_at, token = seconds_now(), secrets.token_hex(TOKEN_BYTES)
        standing = self.standing = self._look(db)
        is_ours = self.token is not None and standing.token == self.token
        if not (standing.is_expired or is_ours or self._is_stuck(standing)):
            return False
        row = db.execute(
            _TAKE,
            (
                *(self.holder, token, self._highest_epoch + 1, self.seconds, MAX_FORMER_LENGTH),
                *(standing.token, standing.epoch),
            ),
        ).fetchone()
        if row is None:
            return False
        self.token, self.epoch, self._until_seconds = token, int(row[0]), started_at + self.seconds
        self.known = Term(token, 0)
        return True

    def _look(self, db: Db) -> Standing:
        """Look at the lease, and whether all is there that this process has seen in the store."""
        standing = standing_of(db)
        now = Term(standing.token, standing.commits)
        if now.token and not now.is_counted:  # an earlier version leads: nothing can be told
            self.known, self.marks = None, set()
        elif self.known and lacks(self.known, now, former=standing.former):
            self.missing, self.known, self.marks = self.known, None, set()
        if now.is_counted:
            self.known = now
        self._highest_epoch = max(self._highest_epoch, standing.epoch)
        self.loss = standing.loss
        return standing

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
        token, self.token = self.token or "-", None
        self.lose()
        db.execute(_RELEASE, (min(after_seconds, self.seconds), MAX_FORMER_LENGTH, token))

    def leave_loss(self, db: Db, text: str) -> None:
        """Tell the bridge that leads that commits are missing."""
        db.execute("UPDATE lease SET loss = %s WHERE name = 'leader' AND loss = ''", (text,))
        self.missing = None

    def saw(self, mark: str, *, waits_for_standby: bool) -> None:
        """Note the place in which the store was at the last look.

        Where another bridge leads, this process cannot miss what that one commits after the look;
        only where commits wait for a standby it is not lost.
        """
        is_led_by_other = self.standing is not None and self.standing.token not in {"", self.token}
        if is_led_by_other and not (self.is_held or waits_for_standby):
            self.marks.clear()
        else:
            self.marks.add(mark)

    def settle(self, db: Db, mark: str | None) -> None:
        """Note in the database where the store is led now, and that no loss is left to be told."""
        db.execute(
            "UPDATE lease SET loss = '', mark = coalesce(%s, mark) "
            "WHERE name = 'leader' AND token = %s",
            (mark, self.token),
        )
        self.missing, self.loss = None, ""


def standing_of(db: Db) -> Standing:
    """Return the lease as it is."""
    row = db.execute(
        "SELECT token, holder, epoch, expires_at, expires_at <= clock_timestamp(), commits, "
        "former, loss, mark FROM lease WHERE name = 'leader'"
    ).fetchone()
    if row is None:
        raise StoreAwayError("the store has no lease: was it restored in part?")
    return Standing(*row)
