"""Parameters and answers of the feed and of statistics, as they are documented and written."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Path, Query
from pydantic import AfterValidator, BaseModel

from collector.reports.report import MAX_USERNAME_LENGTH, canonical

MAX_SEQ = 2**62

Days = Annotated[
    int | None, Query(ge=1, le=36500, description="The last so many UTC days; without, for ever")
]
MOST_SERVERS = 1000
"""In one answer: it is made by the event loop, which does nothing else meanwhile."""
After = Annotated[
    int,
    Query(
        ge=0, le=10_000_000, description="Leaves out so many servers, of those with most traffic"
    ),
]
Limit = Annotated[int, Query(ge=1, le=MOST_SERVERS, description="The most servers in the answer")]
Username = Annotated[
    str, Path(min_length=1, max_length=MAX_USERNAME_LENGTH), AfterValidator(canonical)
]


class UserChange(BaseModel):
    """A user's totals since for ever, as of its last change."""

    username: str
    upload_bytes: int
    download_bytes: int
    billed_bytes: int
    """What both directions count for against the quota."""
    reports: int
    last_used_at: datetime
    change_seq: int
    corrected_upload_bytes: int
    """What corrections added, negative for what was taken back; the totals are without it."""
    corrected_download_bytes: int
    corrected_billed_bytes: int
    corrected_seq: int
    """The number of the newest line of a correction; `/v1/corrections/sum` sums them."""


class CollectorRun(BaseModel):
    """One life of the collector's process: it stored all after a sequence number.

    The token is random. A reader that finds another run where it knows one reads a ledger that was
    restored and has gone on since.
    """

    after_seq: int
    token: str


class ChangePage(BaseModel):
    """A page of the change feed; `next` is the `after` of the next page."""

    ledger_id: str
    head: int
    """The last sequence number given out; below `after` when the ledger was restored."""
    next: int
    changes: list[UserChange]
    runs: list[CollectorRun]
    """The run that stored what `after` names, if it is known, and all later ones."""


class ServerStatistics(BaseModel):
    """Traffic on one server."""

    server: str
    port: int
    protocol: str
    upload_bytes: int
    download_bytes: int
    billed_bytes: int
    """What both directions count for against quotas, as it was decided report by report."""
    ratio: float
    """How many times a byte counts there from now on."""
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
    """How many servers, with port and protocol, there are in all."""
    servers: list[ServerStatistics]
    """A page of them, those with most traffic first; `after` and `limit` say which."""


class GlobalStatistics(BaseModel):
    """Traffic over everything."""

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
    """A sender's largest hour of a UTC day, far beyond its largest of the 14 days before."""

    sender: str
    """`reporter:NAME`, or `user:NAME` of a user who reports for itself."""
    day: datetime
    hour_bytes: int
    past_hour_bytes: int


class DatabaseFacts(BaseModel):
    """The ledger as a database."""

    location: str
    ledger_id: str
    records: int
    day_rows: int
    unique_users: int
    unique_servers: int
    size_bytes: int
    dedup_window_days: int
    retention_days: int


def at(millis: int) -> datetime:
    """Return a moment as an aware datetime."""
    return datetime.fromtimestamp(millis / 1000, tz=UTC)
