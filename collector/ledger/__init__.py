"""The ledger: exact, durable totals. Its values; `ports` says what an engine does with them.

Totals are cumulative since for ever and never go down; what is taken back is a correction beside
them (see `corrections`), and sums by server and day are less it. `seq` numbers reports in the order
they were stored; a user's `change_seq` is the seq of the last report that touched it, so that the
users changed after a seq can be read in pages.

`upload_bytes` and `download_bytes` are raw, as they were reported. `billed_bytes` is what the same
reports count for against quotas, each as it was decided when it was taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from collector.reports.report import Report


class Batch(msgspec.Struct, frozen=True):
    """The reports of one request, and who sent it."""

    reporter: str
    reports: Sequence[Report]


class Receipt(msgspec.Struct, frozen=True):
    """What became of a batch. All of it is on disk."""

    accepted: int
    duplicates: int
    conflicts: int = 0
    """Duplicates whose content differs from what was stored first under their id."""
    full: tuple[int, ...] = ()
    """Places in the batch of the reports that were not stored, since their user's total, raw or
    billed, would be beyond what the ledger counts for one user."""


class UserTotal(msgspec.Struct, frozen=True):
    """A user's traffic since for ever."""

    username: str
    upload_bytes: int
    download_bytes: int
    billed_bytes: int
    reports: int
    last_used_at_millis: int
    change_seq: int
    corrected_upload_bytes: int = 0
    """What corrections added, negative for what was taken back; so are the next two."""
    corrected_download_bytes: int = 0
    corrected_billed_bytes: int = 0
    corrected_seq: int = 0
    """The number of the user's newest line of a correction; 0 where there is none."""


class WriterRun(msgspec.Struct, frozen=True):
    """One life of a collector's process: it stored all reports after a seq, up to the next run."""

    after_seq: int
    token: str
    """Random: a ledger that was restored from a copy and went on has others from there on."""


class Changes(msgspec.Struct, frozen=True):
    """A page of users that changed, in the order of their last change."""

    ledger_id: str
    head: int
    """The last report that is in the sums."""
    changes: list[UserTotal]
    runs: list[WriterRun]
    """The run that stored the report the page begins after, and all later ones."""


class ReportRow(msgspec.Struct, frozen=True, gc=False):
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
    """The report that this row takes back."""


class DayRow(msgspec.Struct, frozen=True, gc=False):
    """A series' sums of one UTC day, to be exported; `change_seq` is the last report in them."""

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
    """How far the ledger has been exported to one retention policy."""

    stream: str
    seq: int = 0
    """Everything up to here is in InfluxDB, or set aside as a dead letter."""
    points: int = 0
    advanced_at_millis: int | None = None
    problem: str | None = None
    """Why it does not go on now."""


class DeadLetter(msgspec.Struct, frozen=True):
    """A line that InfluxDB refused for good."""

    stream: str
    line: str
    reason: str
    at_millis: int


class Backlog(msgspec.Struct, frozen=True):
    """Reports that are stored and not yet exported."""

    reports: int
    oldest_received_at_millis: int | None


class Progress(msgspec.Struct, frozen=True):
    """What one step of an export came to."""

    stream: str
    from_seq: int
    to_seq: int
    points: int
    dead_letters: Sequence[DeadLetter] = ()
