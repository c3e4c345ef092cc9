"""What statistics of a ledger come to, and what its tables hold; values of the port."""

from __future__ import annotations

import msgspec


class IdleSeries(msgspec.Struct, frozen=True, gc=False):
    """A series that no kept report and no day refers to, as it was found.

    Its sums are in the totals for ever. Those that are not zero are added to the user's series of
    the server `other` when it is dropped, so that series and users sum to the same.
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
    """Of one user: servers, with port and protocol."""
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
    """Traffic over everything."""

    users: int
    servers: int
    protocols: int
    upload_bytes: int
    download_bytes: int
    billed_bytes: int
    connections: int
    reports: int


class Facts(msgspec.Struct, frozen=True):
    """The ledger as a database."""

    location: str
    ledger_id: str
    records: int
    """Reports still kept, for deduplication and until they are exported."""
    day_rows: int
    users: int
    servers: int
    upload_bytes: int
    """Since for ever, like the next two."""
    download_bytes: int
    billed_bytes: int
    size_bytes: int


class Audit(msgspec.Struct, frozen=True):
    """Whether the ledger is whole and its sums agree."""

    problems: list[str]
    user_bytes: int
    series_bytes: int
    day_bytes: int
    billed_bytes: int
    """The sum over users of what was billed."""
    reports: int
    unfolded: int
    """Reports that are stored and in none of these sums yet."""
    correction_lines: int = 0
    corrected_bytes: int = 0
    """What corrections added, negative for what was taken back; all the sums are with it."""
    corrected_billed_bytes: int = 0
