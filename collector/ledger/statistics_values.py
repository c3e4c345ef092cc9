"""Values of statistics and of the audit of a ledger."""

from __future__ import annotations

import msgspec


class IdleSeries(msgspec.Struct, frozen=True, gc=False):
    """A series without stored reports and daily rows, with its sums when it was found.

    Its sums stay in the totals. When it is dropped, they are added to the user's series of the
    server `other`, so that series and users have the same sums.
    """

    id: int
    reports: int
    upload_bytes: int
    download_bytes: int
    billed_bytes: int


class ServerUsage(msgspec.Struct, frozen=True):
    """Traffic on one server, port and protocol."""

    server: str
    port: int
    protocol: str
    upload_bytes: int
    download_bytes: int
    billed_bytes: int
    connections: int
    users: int
    last_used_at_millis: int | None


class UsageSums(msgspec.Struct, frozen=True):
    """Traffic of a user, or on a server and port, over all its servers or users."""

    series: int
    """For a user: the number of servers, with port and protocol."""
    users: int
    upload_bytes: int
    download_bytes: int
    billed_bytes: int
    connections: int


class DailyUsage(msgspec.Struct, frozen=True):
    """Traffic on one UTC day, as days since 1970."""

    day: int
    upload_bytes: int
    download_bytes: int
    users: int


class Summary(msgspec.Struct, frozen=True):
    """Traffic of all users on all servers."""

    users: int
    servers: int
    protocols: int
    upload_bytes: int
    download_bytes: int
    billed_bytes: int
    connections: int
    reports: int


class Facts(msgspec.Struct, frozen=True):
    """The ledger's size and row counts."""

    location: str
    ledger_id: str
    records: int
    """Reports kept for deduplication and until they are exported."""
    day_rows: int
    users: int
    servers: int
    upload_bytes: int
    """Of all time, like the next two."""
    download_bytes: int
    billed_bytes: int
    size_bytes: int


class Audit(msgspec.Struct, frozen=True):
    """The ledger's integrity, and whether its sums agree."""

    problems: list[str]
    user_bytes: int
    series_bytes: int
    day_bytes: int
    billed_bytes: int
    """The sum over users of what was billed."""
    reports: int
    unfolded: int
    """Stored reports that are not added up yet, so in none of these sums."""
    correction_lines: int = 0
    corrected_bytes: int = 0
    """Bytes added by corrections, negative if subtracted; they are included in the sums."""
    corrected_billed_bytes: int = 0
