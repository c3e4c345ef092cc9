"""Parameters and answers of the feed and of statistics."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Path, Query
from pydantic import AfterValidator, BaseModel

from collector.reports.report import MAX_USERNAME_LENGTH, canonical

MAX_SEQ = 2**62

Days = Annotated[
    int | None, Query(ge=1, le=36500, description="The last so many UTC days; default: all")
]
MOST_SERVERS = 1000
"""Servers per answer: encoding an answer blocks the event loop."""
After = Annotated[
    int,
    Query(ge=0, le=10_000_000, description="Skips so many servers, those with most traffic"),
]
Limit = Annotated[int, Query(ge=1, le=MOST_SERVERS, description="The most servers in the answer")]
Username = Annotated[
    str, Path(min_length=1, max_length=MAX_USERNAME_LENGTH), AfterValidator(canonical)
]


class UserChange(BaseModel):
    """A user's totals of all time, as of its last change."""

    username: str
    upload_bytes: int
    download_bytes: int
    billed_bytes: int
    """Billed bytes of both directions."""
    reports: int
    last_used_at: datetime
    change_seq: int
    corrected_upload_bytes: int
    """What corrections added, negative if subtracted; the other totals exclude it."""
    corrected_download_bytes: int
    corrected_billed_bytes: int
    corrected_seq: int
    """The sequence number of the newest correction line; `/v1/corrections/sum` sums lines."""


class CollectorRun(BaseModel):
    """One run of a collector process as the ledger's writer, which began after a sequence number.

    The token is random. If a reader finds another token at a sequence number than it found before,
    then the ledger was restored from a backup and written to since.
    """

    after_seq: int
    token: str


class ChangePage(BaseModel):
    """A page of the change feed; `next` is the `after` of the next page."""

    ledger_id: str
    head: int
    """The last assigned sequence number; below `after` if the ledger was restored."""
    next: int
    changes: list[UserChange]
    runs: list[CollectorRun]
    """The run that stored the report `after`, if it is known, and all later runs."""


class ServerStatistics(BaseModel):
    """Traffic on one server."""

    server: str
    port: int
    protocol: str
    upload_bytes: int
    download_bytes: int
    billed_bytes: int
    """Billed bytes of both directions, as each report was billed when it was stored."""
    ratio: float
    """The billing ratio of the server for reports from now on."""
    connections: int
    users: int
    last_used_at: datetime | None


class UserStatistics(BaseModel):
    """A user's traffic by server."""

    username: str
    days: int | None
    upload_bytes: int
    download_bytes: int
    billed_bytes: int
    connections: int
    server_count: int
    """The number of series: servers with port and protocol."""
    servers: list[ServerStatistics]
    """A page of the series, those with most traffic first; see `after` and `limit`."""


class GlobalStatistics(BaseModel):
    """Traffic of all users on all servers."""

    days: int | None
    users: int
    servers: int
    protocols: int
    upload_bytes: int
    download_bytes: int
    billed_bytes: int
    connections: int
    reports: int


class SpikeStatistics(BaseModel):
    """A sender's largest hour of a UTC day that is a spike against the 14 days before."""

    sender: str
    """`reporter:NAME`, or `user:NAME` of a user without a key."""
    day: datetime
    hour_bytes: int
    past_hour_bytes: int


class DatabaseFacts(BaseModel):
    """The ledger's size and row counts."""

    location: str
    ledger_id: str
    records: int
    day_rows: int
    unique_users: int
    unique_servers: int
    size_bytes: int
    dedup_window_days: int
    retention_days: int
    free_disk_bytes: int | None
    """Under the ledger; null where PostgreSQL has it, or the folder cannot be read."""
    reporter_keys: int
    """Reporters with a valid key."""
    last_report_at: datetime | None
    """When anybody's last report arrived; null before the first."""


def at(millis: int) -> datetime:
    """Return milliseconds since 1970 as an aware UTC datetime."""
    return datetime.fromtimestamp(millis / 1000, tz=UTC)
