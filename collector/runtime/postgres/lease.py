"""Who leads among the processes on one database: a row with a holder, a token and a deadline.

Deadlines are by the database's clock: an UPDATE uses the time at which the server got it, since an
engine of several machines refuses functions that may differ from row to row (`clock_timestamp`).
Every transaction of the leader moves the deadline of the lease with its own token: where another
has taken the lease since, it finds no row and writes nothing, however long its process was frozen.
The row stays locked until its end, so that the lease is not taken in the middle of it. This process
reckons by CLOCK_BOOTTIME, which goes on while the machine sleeps.

The row is the program's: a table `lease` with a row named `leader`, and columns of the program's
own beside those of `LeaseRow`.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from collector.runtime.boot_clock import seconds_now

if TYPE_CHECKING:  # the driver is an extra
    from collector.runtime.postgres.link import Db

STUCK_LEASES = 3
LEASE_COLUMNS = "token, holder, epoch, expires_at, expires_at <= clock_timestamp()"
"""What a SELECT gives `LeaseRow`, in its order."""
# An epoch is given out once, also by a database that lacks the last ones: it goes on from what is
# known here, and with the time.
_TAKE = """
    UPDATE lease SET holder = %s, token = %s,
        epoch = greatest(epoch + 1, %s, (extract(epoch FROM statement_timestamp()) * 1000)::bigint),
        expires_at = statement_timestamp() + %s * interval '1 second'
"""
_WHERE_UNCHANGED = " WHERE name = 'leader' AND token = %s AND epoch = %s RETURNING epoch"


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """The lease as it is in the database."""

    token: str
    holder: str
    epoch: int
    expires_at: datetime
    is_expired: bool


RowT = TypeVar("RowT", bound=LeaseRow)


class Lease(Generic[RowT]):
    """This process's side of a lease. Its memory may be out of date; a transaction verifies it.

    `read_row` returns the row, or raises the program's error where there is none. `also_taken` is
    SQL that sets the program's own columns when the lease is taken, such as `, commits = 0`.
    """

    def __init__(
        self,
        seconds: float,
        *,
        read_row: Callable[[Db], RowT],
        token_bytes: int,
        also_taken: str = "",
    ) -> None:
        self.seconds = seconds
        self.holder = f"{socket.gethostname()}:{os.getpid()}"
        self.token: str | None = None
        self.epoch = 0
        self.row: RowT | None = None
        """The lease as it was seen last by `take`."""
        self._read_row = read_row
        self._token_bytes = token_bytes
        self._also_taken = also_taken
        self._highest_epoch = 0
        self._until_seconds = 0.0
        self._watched: tuple[LeaseRow, float] | None = None

    @property
    def until_seconds(self) -> float:
        """Until when, by `seconds_now`, no other process can have taken it; 0 without it."""
        return self._until_seconds if self.token is not None else 0.0

    @property
    def is_held(self) -> bool:
        """Whether this process leads, and no other can have taken the lease since."""
        return seconds_now() < self.until_seconds

    def confirm(self, started_at_seconds: float) -> None:
        """Note that a transaction which moved the deadline is committed; it was begun then."""
        self._until_seconds = max(self._until_seconds, started_at_seconds + self.seconds)

    def take(self, db: Db) -> bool:
        """Take the lease if it is free, or was ours; return whether.

        It has another token each time: what was stored under one was stored by one process, in one
        unbroken connection.
        """
        started_at_seconds, token = seconds_now(), secrets.token_hex(self._token_bytes)
        row = self.row = self._read_row(db)
        if not self.may_take(row):
            return False
        values: tuple[Any, ...] = (
            *(self.holder, token, self._highest_epoch + 1, self.seconds),
            *(row.token, row.epoch),
        )
        taken = db.execute(_TAKE + self._also_taken + _WHERE_UNCHANGED, values).fetchone()
        if taken is None:
            return False
        self.token, self.epoch = token, int(taken[0])
        self._until_seconds = started_at_seconds + self.seconds
        return True

    def may_take(self, row: LeaseRow) -> bool:
        """Tell whether the lease is free, or was ours, by a row that was just read.

        Without a transaction, so that a process that follows has none for each look.
        """
        self._highest_epoch = max(self._highest_epoch, row.epoch, self.epoch)
        is_ours = self.token is not None and row.token == self.token
        return row.is_expired or is_ours or self._is_stuck(row)

    def _is_stuck(self, row: LeaseRow) -> bool:
        """Tell whether the deadline has stood still for STUCK_LEASES, by this process's clock.

        A leader moves it all the time. One that lies hours ahead is left over from before the
        database's clock was set back.
        """
        now_seconds = seconds_now()
        if self._watched is None or self._watched[0] != row:
            self._watched = (row, now_seconds)
        return now_seconds - self._watched[1] > STUCK_LEASES * self.seconds

    def lose(self) -> None:
        """Forget that this process leads; it still knows its token."""
        self._until_seconds = 0.0
