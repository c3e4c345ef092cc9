"""The ledger: exact, durable totals. This module has its values; `ports` has its interfaces.

Totals are cumulative and never decrease. Corrections are kept separately (see `corrections`); the
sums by server and day include them. `seq` numbers reports in the order in which they were stored. A
user's `change_seq` is the seq of its last report, so that the users changed after a seq can be read
in pages.

`upload_bytes` and `download_bytes` are raw: as reported. `billed_bytes` is what the same reports
count against quotas, computed when each report was accepted.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from collector.reports.report import Report


class Batch(msgspec.Struct, frozen=True):
    """The reports of one request, and the scope of their sender."""

    reporter: str
    reports: Sequence[Report]


class Receipt(msgspec.Struct, frozen=True):
    """The outcome of a batch, which is on disk."""

    accepted: int
    duplicates: int
    conflicts: int = 0
    """Duplicates whose content differs from the first report with their id."""
    full: tuple[int, ...] = ()
    """Indexes in the batch of reports that were not stored, since their user's total, raw or
    billed, would exceed MAX_AMOUNT_BYTES."""


class UserTotal(msgspec.Struct, frozen=True):
    """A user's total traffic."""

    username: str
    upload_bytes: int
    download_bytes: int
    billed_bytes: int
    reports: int
    last_used_at_millis: int
    change_seq: int
    corrected_upload_bytes: int = 0
    """Bytes added by corrections, negative if subtracted; the next two likewise."""
    corrected_download_bytes: int = 0
    corrected_billed_bytes: int = 0
    corrected_seq: int = 0
    """The seq of the user's newest correction line; 0 if there is none."""


class WriterRun(msgspec.Struct, frozen=True):
    """One run of a writer of the ledger: it stored all reports after a seq, up to the next run."""

    after_seq: int
    token: str
    """Random, so that a ledger that was restored from a copy has other tokens from there on."""


class Changes(msgspec.Struct, frozen=True):
    """A page of changed users, in the order of their last change."""

    ledger_id: str
    head: int
    """The seq of the last report in the sums."""
    changes: list[UserTotal]
    runs: list[WriterRun]
    """The run that stored the report after which the page begins, and all later runs."""


class ReportRow(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A stored report, to be exported."""

    seq: int
    username: str
    server: str
    port: int
    protocol: str
    upload_bytes: int
    download_bytes: int
    billed_bytes: int
    connections: int
    reported_at_millis: int
    voids_seq: int | None = None
    """The seq of the report that this row voids."""


class DayRow(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A series' sums of one UTC day, to be exported.

    `change_seq` is the seq of its last report, or of one that was added up, and arrived on the same
    UTC day, together with it; no other row has it.
    """

    change_seq: int
    day: int
    username: str
    server: str
    port: int
    protocol: str
    upload_bytes: int
    download_bytes: int
    billed_bytes: int
    connections: int
    reports: int
    last_used_at_millis: int


class ExportState(msgspec.Struct, frozen=True):
    """The position of the export to one retention policy."""

    stream: str
    seq: int = 0
    """The cursor: everything up to this seq is in InfluxDB, or is a dead letter."""
    points: int = 0
    advanced_at_millis: int | None = None
    problem: str | None = None
    """Why it is stopped now; None if it is not."""


class DeadLetter(msgspec.Struct, frozen=True):
    """A line that InfluxDB refused for good."""

    stream: str
    line: str
    reason: str
    at_millis: int


class Backlog(msgspec.Struct, frozen=True):
    """Reports that are stored and not exported yet."""

    reports: int
    oldest_received_at_millis: int | None


class Progress(msgspec.Struct, frozen=True):
    """The result of one step of an export."""

    stream: str
    from_seq: int
    to_seq: int
    points: int
    dead_letters: Sequence[DeadLetter] = ()
