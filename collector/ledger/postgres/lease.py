"""The lease of the leader among a ledger's collectors; see `runtime.postgres.lease`."""

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
    """Another collector has the lease now."""


class Lease(lease.Lease[LeaseRow]):
    """This collector's side of the lease: `extend` begins each transaction of the leader."""

    def __init__(self, seconds: float = LEASE_SECONDS) -> None:
        super().__init__(seconds, read_row=row_of, token_bytes=TOKEN_BYTES)

    @property
    def is_due(self) -> bool:
        """Whether the lease should be extended, though there is nothing to add up."""
        left_seconds = self.until_seconds - seconds_now()
        return left_seconds < self.seconds - RENEW_SECONDS

    def extend(self, db: Db) -> float:
        """Begin a transaction of the leader; NotLeadingError if another collector leads.

        Returns the argument for `confirm`, which is called after the commit.
        """
        started_at_seconds = seconds_now()
        row = None
        if self.token is not None:
            row = db.execute(
                "UPDATE lease SET expires_at = statement_timestamp() + %s * interval '1 second' "
                "WHERE name = 'leader' AND token = %s RETURNING epoch",
                (self.seconds, self.token),
            ).fetchone()
        if row is None:
            self.lose()
            raise NotLeadingError("another collector leads now")
        return started_at_seconds

    def release(self, db: Db) -> None:
        """Release the lease, so that another collector can take it at once."""
        self.lose()
        db.execute(
            "UPDATE lease SET expires_at = statement_timestamp() "
            "WHERE name = 'leader' AND token = %s AND expires_at > statement_timestamp()",
            (self.token or "",),
        )


def row_of(db: Db) -> LeaseRow:
    """Return the row of the lease; NotStoredError if there is none."""
    row = db.execute(f"SELECT {LEASE_COLUMNS} FROM lease WHERE name = 'leader'").fetchone()
    if row is None:
        raise NotStoredError("the ledger has no lease: was it restored in part?")
    return LeaseRow(*row)
