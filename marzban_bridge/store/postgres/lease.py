"""Who leads among the bridges of one store; `collector.runtime.postgres.lease` says how.

Each transaction of the leader is one statement, so that one that is frozen holds no lock.

The row also counts the leader's commits, and keeps the counts of former leaders (`terms`). A
leader's fence asks for the commits that it knows of: where a standby took over without them,
nothing is written on top.
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
    "UPDATE lease SET expires_at = clock_timestamp() + %s * interval '1 second' "
    "WHERE name = 'leader' AND token = %s AND commits >= %s RETURNING commits, loss"
)
COUNT_COMMIT = (
    "UPDATE lease SET expires_at = clock_timestamp() + %s * interval '1 second', "
    "commits = commits + 1 "
    "WHERE name = 'leader' AND token = %s AND commits >= %s RETURNING commits, loss"
)
"""The fence of what is written; both with what `Lease.fence` says."""
_ALSO_TAKEN = f"""
    , commits = 0,
    former = CASE WHEN token = '' THEN former
        ELSE right(former || ' ' || token || ':' || commits, {MAX_FORMER_LENGTH}) END
"""
_RELEASE = """
    UPDATE lease SET token = '', commits = 0,
        expires_at = clock_timestamp() + %s * interval '1 second',
        former = right(former || ' ' || token || ':' || commits, %s)
    WHERE name = 'leader' AND token = %s
"""


@dataclass(frozen=True, slots=True)
class LeaseRow(lease.LeaseRow):
    """The lease as it is in the database."""

    commits: int
    """How many of its leader's are in the store."""
    former: str
    """The same of former leaders."""
    loss: str
    """What a bridge that follows has found missing, for the leader to know; mostly empty."""
    mark: str
    """The place in which the store was last led; empty after an earlier version."""


class Lease(lease.Lease[LeaseRow]):
    """This bridge's side of the lease, and what it has seen in the store."""

    def __init__(self, seconds: float = LEASE_SECONDS) -> None:
        super().__init__(
            seconds, look=self._compare, token_bytes=TOKEN_BYTES, also_taken=_ALSO_TAKEN
        )
        self.known: Term | None = None
        """The newest commit that this process has seen in the store."""
        self.marks: set[str] = set()
        """The places in which this process has seen the store and would miss whatever is lost."""
        self.missing: Term | None = None
        """What this process has seen in the store and the store lacks, until that is stored."""
        self.loss = ""
        """What another process has found missing, until that is stored."""

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
        self.confirm(started_at)
        commits, self.loss = row
        if self.token:
            self.known = Term(self.token, commits)

    def take(self, db: Db) -> bool:
        """Take the lease if it is free, or was ours; return whether.

        It has another token each time. What the store lacks is in `missing` then.
        """
        is_taken = super().take(db)
        if is_taken and self.token:
            self.known = Term(self.token, 0)
        return is_taken

    def _compare(self, db: Db) -> LeaseRow:
        """Look at the lease, and whether all is there that this process has seen in the store."""
        row = row_of(db)
        now = Term(row.token, row.commits)
        if now.token and not now.is_counted:  # an earlier version leads: nothing can be told
            self.known, self.marks = None, set()
        elif self.known and lacks(self.known, now, former=row.former):
            self.missing, self.known, self.marks = self.known, None, set()
        if now.is_counted:
            self.known = now
        self.loss = row.loss
        return row

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
        is_led_by_other = self.row is not None and self.row.token not in {"", self.token}
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


def row_of(db: Db) -> LeaseRow:
    """Return the lease as it is; StoreAwayError where there is none."""
    row = db.execute(
        f"SELECT {LEASE_COLUMNS}, commits, former, loss, mark FROM lease WHERE name = 'leader'"
    ).fetchone()
    if row is None:
        raise StoreAwayError("the store has no lease: was it restored in part?")
    return LeaseRow(*row)
