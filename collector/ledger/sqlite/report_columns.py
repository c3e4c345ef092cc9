"""The reports of one commit by columns: most of what is done with them is done by column."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

from collector.ledger.sqlite import rows

_PLAIN = (
    "INSERT INTO report (report_key, series_id, upload_bytes, download_bytes, connections, "
    "reported_at, received_at, reporter)"
)
_ANY = (
    "INSERT INTO report (report_key, series_id, upload_bytes, download_bytes, connections, "
    "reported_at, billed_bytes, reporter, received_at)"
)


class ReportColumns(NamedTuple):
    """Reports that are stored together, in the order of their seqs; columns are equally long."""

    keys: Sequence[bytes | None] = ()
    series_ids: Sequence[int] = ()
    upload_bytes: Sequence[int] = ()
    download_bytes: Sequence[int] = ()
    connections: Sequence[int] = ()
    reported_at: Sequence[int] = ()
    billed_bytes: Sequence[int | None] = ()
    """None where they are the raw bytes."""
    reporters: Sequence[str] = ()
    usernames: Sequence[str] = ()

    @property
    def size(self) -> int:
        """How many reports."""
        return len(self.keys)

    @property
    def are_billed_as_reported(self) -> bool:
        """Whether the billed bytes of all are the raw ones."""
        return self.billed_bytes.count(None) == self.size

    def at(self, places: Sequence[int]) -> ReportColumns:
        """Return those of the reports."""
        chosen: list[Any] = [[column[place] for place in places] for column in self]
        return ReportColumns(*chosen)


def append(
    db: sqlite3.Connection, columns: ReportColumns, *, after_seq: int, received_at_millis: int
) -> None:
    """Store reports, which get the seqs after one; raises sqlite3.IntegrityError if they do not."""
    if not columns.size:
        return
    reporter = columns.reporters[0]
    if columns.are_billed_as_reported and columns.reporters.count(reporter) == columns.size:
        same: Sequence[object] = received_at_millis, reporter
        rows.insert_columns(db, _PLAIN, columns[:6], same=same)
    else:
        rows.insert_columns(db, _ANY, columns[:8], same=[received_at_millis])
    (last_seq,) = db.execute("SELECT last_insert_rowid()").fetchone()
    if last_seq != after_seq + columns.size:
        expected_seq = after_seq + columns.size
        raise sqlite3.IntegrityError(f"the last report has seq {last_seq}, not {expected_seq}")
