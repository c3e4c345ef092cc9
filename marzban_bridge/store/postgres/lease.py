"""The lease of a bridge's store, on top of `collector.runtime.postgres.lease`.

Each transaction of the leader is one statement, so that a frozen process holds no lock.

The row also counts the leader's commits, and keeps the counts of former leaders (`terms`). The
leader's fence includes its commit count: if a standby took over without some of these commits, the
next write fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from collector.runtime.boot_clock import seconds_now
from collector.runtime.postgres import lease
from collector.runtime.postgres.lease import LEASE_COLUMNS
from marzban_bridge.errors import NotLeadingError, StoreAwayError
from marzban_bridge.store.postgres.terms import MAX_FORMER_LENGTH, TOKEN_BYTES, Term, lacks

if TYPE_CHECKING:  # the driver is an extra
    from marzban_bridge.store.postgres.link import Db

LEASE_SECONDS = 10.0
RENEW_SECONDS = 1.0
MOVE_DEADLINE = (
    "UPDATE lease SET expires_at = statement_timestamp() + %s * interval '1 second' "
    "WHERE name = 'leader' AND token = %s AND commits >= %s RETURNING commits, loss"
)
COUNT_COMMIT = (
    "UPDATE lease SET expires_at = statement_timestamp() + %s * interval '1 second', "
    "commits = commits + 1 "
    "WHERE name = 'leader' AND token = %s AND commits >= %s RETURNING commits, loss"
)
"""The fence of a write; both statements take the values of `Lease.fence`."""
_ALSO_TAKEN = f"""
    , commits = 0,
    former = CASE WHEN token = '' THEN former
        ELSE right(former || ' ' || token || ':' || commits, {MAX_FORMER_LENGTH}) END
"""
_RELEASE = """
    UPDATE lease SET token = '', commits = 0,
        expires_at = statement_timestamp() + %s * interval '1 second',
        former = right(former || ' ' || token || ':' || commits, %s)
    WHERE name = 'leader' AND token = %s
"""


@dataclass(frozen=True, slots=True)
class LeaseRow(lease.LeaseRow):
    """The row of the lease."""

    commits: int
    """The number of the leader's commits in the store."""
    former: str
    """The commits of former leaders (`terms.former_terms`)."""
    loss: str
    """A follower's message about lost commits, for the leader; empty if there is none."""
    mark: str
    """The place in which the store was last led; empty if an earlier version led."""


class Lease(lease.Lease[LeaseRow]):
    """The lease as this process holds it, and the commits it has seen in the store."""

    def __init__(self, seconds: float = LEASE_SECONDS) -> None:
        super().__init__(
            seconds, read_row=self._compare, token_bytes=TOKEN_BYTES, also_taken=_ALSO_TAKEN
        )
        self.known: Term | None = None
        """The newest commit that this process has seen in the store."""
        self.marks: set[str] = set()
        """Places of the store in which this process would detect lost commits."""
        self.missing: Term | None = None
        """The term with commits that this process saw and the store lacks, until stored."""
        self.loss = ""
        """The message of another process about lost commits, until stored."""

    @property
    def fence(self) -> tuple[float, str, int]:
        """The values for MOVE_DEADLINE and COUNT_COMMIT."""
        is_own = self.known is not None and self.known.token == self.token
        return self.seconds, self.token or "-", self.known.commits if self.known and is_own else 0

    def extend(self, db: Db) -> None:
        """Move the deadline; NotLeadingError if another bridge holds the lease."""
        started_at = seconds_now()
        self.moved(started_at, db.execute(MOVE_DEADLINE, self.fence).fetchone())

    def moved(self, started_at: float, row: tuple[int, str] | None) -> None:
        """Record a committed transaction that began at `started_at`.

        `row` is the result of its fence. Raises NotLeadingError if it is None.
        """
        if row is None:
            self.lose()
            raise NotLeadingError(
                "another bridge has taken the lease, or the database lacks commits of this one"
            )
        self.confirm(started_at)
        commits, self.loss = row
        if self.token:
            self.known = Term(self.token, commits)

    def take(self, db: Db) -> bool:
        """Take the lease, with a new token, if it is free or was this process's; return whether.

        Lost commits are in `missing` afterwards.
        """
        is_taken = super().take(db)
        if is_taken and self.token:
            self.known = Term(self.token, 0)
        return is_taken

    def _compare(self, db: Db) -> LeaseRow:
        """Read the lease, and compare the commits with those this process has seen."""
        row = row_of(db)
        now = Term(row.token, row.commits)
        if now.token and not now.is_counted:  # an earlier version leads: it counts no commits
            self.known, self.marks = None, set()
        elif self.known and lacks(self.known, now, former=row.former):
            self.missing, self.known, self.marks = self.known, None, set()
        if now.is_counted:
            self.known = now
        self.loss = row.loss
        return row

    def release(self, db: Db, *, after_seconds: float = 0.0) -> None:
        """Give the lease back, effective at once or after some seconds."""
        token, self.token = self.token or "-", None
        self.lose()
        db.execute(_RELEASE, (min(after_seconds, self.seconds), MAX_FORMER_LENGTH, token))

    def leave_loss(self, db: Db, text: str) -> None:
        """Report lost commits to the bridge that leads."""
        db.execute("UPDATE lease SET loss = %s WHERE name = 'leader' AND loss = ''", (text,))
        self.missing = None

    def saw(self, mark: str, *, waits_for_standby: bool) -> None:
        """Record the place of the store as just read.

        If another bridge leads, this process does not see its later commits, so it could not detect
        their loss; the place is trusted only if commits wait for a synchronous standby.
        """
        is_led_by_other = self.row is not None and self.row.token not in {"", self.token}
        if is_led_by_other and not (self.is_held or waits_for_standby):
            self.marks.clear()
        else:
            self.marks.add(mark)

    def settle(self, db: Db, mark: str | None) -> None:
        """Store the place in which the store is led now, and clear the message of lost commits."""
        db.execute(
            "UPDATE lease SET loss = '', mark = coalesce(%s, mark) "
            "WHERE name = 'leader' AND token = %s",
            (mark, self.token),
        )
        self.missing, self.loss = None, ""


def row_of(db: Db) -> LeaseRow:
    """Read the row of the lease; StoreAwayError if it is missing."""
    row = db.execute(
        f"SELECT {LEASE_COLUMNS}, commits, former, loss, mark FROM lease WHERE name = 'leader'"
    ).fetchone()
    if row is None:
        raise StoreAwayError("the store has no lease: was it restored in part?")
    return LeaseRow(*row)
