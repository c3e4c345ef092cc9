"""Who leads among the collectors of one ledger, and adds up; `runtime.postgres.lease` says how."""

from __future__ import annotations

from collector.errors import NotStoredError
from collector.ledger.postgres.link import Db
from collector.runtime.boot_clock import seconds_now
from collector.runtime.postgres import lease
from collector.runtime.postgres.lease import LEASE_COLUMNS, LeaseRow

LEASE_SECONDS = 6.0
RENEW_SECONDS = 1.5
TOKEN_BYTES = 8


class NotLeadingError(NotStoredError):
    """Another collector leads by now."""


class Lease(lease.Lease[LeaseRow]):
    """This collector's side of the lease: `extend` begins each transaction of the leader."""

    def __init__(self, seconds: float = LEASE_SECONDS) -> None:
        super().__init__(seconds, look=row_of, token_bytes=TOKEN_BYTES)

    @property
    def is_due(self) -> bool:
        """Whether the deadline should be moved, though there is nothing to do."""
        left_seconds = self.until_seconds - seconds_now()
        return left_seconds < self.seconds - RENEW_SECONDS

    def extend(self, db: Db) -> float:
        """Begin a transaction of the leader; NotLeadingError where another leads.

        Returns what `confirm` wants to know once it is committed.
        """
        started_at_seconds = seconds_now()
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
        return started_at_seconds

    def release(self, db: Db) -> None:
        """Let another collector lead at once."""
        self.lose()
        db.execute(
            "UPDATE lease SET expires_at = clock_timestamp() "
            "WHERE name = 'leader' AND token = %s AND expires_at > clock_timestamp()",
            (self.token or "",),
        )


def row_of(db: Db) -> LeaseRow:
    """Return the lease as it is; NotStoredError where there is none."""
    row = db.execute(f"SELECT {LEASE_COLUMNS} FROM lease WHERE name = 'leader'").fetchone()
    if row is None:
        raise NotStoredError("the ledger has no lease: was it restored in part?")
    return LeaseRow(*row)
