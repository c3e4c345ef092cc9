"""What one commit of an SQLite ledger stores: the columns of reports, and the batches' receipts."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Sequence
from itertools import chain, repeat
from typing import Any

from msgspec.structs import astuple

from collector.ledger import Batch, Receipt
from collector.ledger.capacity import Amounts, Room
from collector.ledger.sqlite.rows import ReportColumns
from collector.ledger.sqlite.series_ids import SeriesIds, SeriesKey
from collector.reports.columns import columns_of
from collector.reports.report import Report

_FIND_SERIES = (
    "SELECT id FROM series WHERE username = ? AND server = ? AND port = ? AND protocol = ?"
)
_ADD_SERIES = (
    "INSERT INTO series (username, server, port, protocol) VALUES (?, ?, ?, ?) RETURNING id"
)
_CONTENT = "SELECT series_id, upload_bytes, download_bytes FROM report WHERE seq = ?"
_Content = tuple[int | None, int, int]
_Row = tuple[bytes | None, int, int, int, int, int, int | None, str]
"""The values of `ReportColumns` of one report."""


class CommitGroup:
    """The reports that one commit will store; `take` is called within its transaction."""

    def __init__(self, db: sqlite3.Connection, series: SeriesIds, batches: Sequence[Batch]) -> None:
        self._db = db
        self._series = series
        self._batches = batches
        columns = columns_of([batch.reports for batch in batches])
        self._fields, self._raw_bytes = columns.fields, columns.raw_bytes
        self.keys: Sequence[bytes] = [key for key in self._fields[8] if key is not None]
        """The ids of all reports that have one."""
        self.columns = ReportColumns()
        """What `take` has taken."""
        self.seqs: dict[Any, int] = {}
        """The seqs that their ids get."""
        self.sent: list[tuple[str, int]] = []
        """The raw bytes of each batch, with its sender."""
        self._rows: list[_Row] = []
        self._known: dict[bytes, int] = {}
        self._after_seq = 0

    @functools.cached_property
    def offered(self) -> Amounts:
        """The bytes of all reports, new or not."""
        raw_bytes, billed = sum(self._raw_bytes), self._fields[9]
        if billed.count(None) == len(billed):
            return Amounts(raw_bytes, raw_bytes)
        amounts = zip(self._raw_bytes, billed, strict=True)
        return Amounts(raw_bytes, sum(raw if it is None else it for raw, it in amounts))

    @property
    def taken(self) -> Amounts:
        """The bytes of what was taken."""
        columns = self.columns
        if columns.size == len(self._raw_bytes):
            return self.offered
        raw_bytes = sum(columns.upload_bytes) + sum(columns.download_bytes)
        amounts = zip(
            columns.upload_bytes, columns.download_bytes, columns.billed_bytes, strict=True
        )
        billed_bytes = sum(up + down if it is None else it for up, down, it in amounts)
        return Amounts(raw_bytes, billed_bytes)

    def take(self, *, known: dict[bytes, int], room: Room | None, after_seq: int) -> list[Receipt]:
        """Take the reports that are new and fit, to be stored after a seq; return the receipts.

        `known` has the seq of each id that is stored already, and `room` decides about each report;
        None where all fit.
        """
        seqs = range(after_seq + 1, after_seq + len(self._raw_bytes) + 1)
        self.seqs = dict(zip(self._fields[8], seqs, strict=True))
        self.seqs.pop(None, None)
        if not known and room is None and len(self.seqs) == len(self.keys):
            return self._take_all()
        self._known, self._after_seq = known, after_seq
        receipts = [self._take(batch, room) for batch in self._batches]
        self.columns = ReportColumns(*zip(*self._rows, strict=True))
        self.seqs = dict(zip(self.columns.keys, seqs, strict=False))
        self.seqs.pop(None, None)
        return receipts

    def _take_all(self) -> list[Receipt]:
        """Take reports that all fit, and none of which is a duplicate; as `_take`, but faster."""
        fields, batches = self._fields, self._batches
        reporters = [repeat(it.reporter, len(it.reports)) for it in batches]
        self.columns = ReportColumns(
            keys=fields[8],
            series_ids=self._series_ids(*fields[:4]),
            upload_bytes=fields[4],
            download_bytes=fields[5],
            connections=fields[6],
            reported_at=fields[7],
            billed_bytes=fields[9],
            reporters=list(chain.from_iterable(reporters)),
        )
        start = 0
        for batch in batches:
            end = start + len(batch.reports)
            if end > start:
                self.sent.append((batch.reporter, sum(self._raw_bytes[start:end])))
            start = end
        return [_receipt(len(batch.reports)) for batch in batches]

    def _take(self, batch: Batch, room: Room | None) -> Receipt:
        """Take the reports of a batch that are new and fit; their ids become known."""
        duplicates: list[tuple[Report, int]] = []
        full: list[int] = []
        known, rows = self._known, self._rows
        taken_before, raw_bytes = len(rows), 0
        for place, report in enumerate(batch.reports):
            username, server, port, protocol, up, down, connections, at, key, billed = astuple(
                report
            )
            if key is not None and (stored := known.get(key)) is not None:
                duplicates.append((report, stored))
                continue
            if room is not None and not room.take(report):
                full.append(place)
                continue
            series_id = self._series_id((username, server, port, protocol))
            rows.append((key, series_id, up, down, connections, at, billed, batch.reporter))
            if key is not None:
                known[key] = self._after_seq + len(rows)
            raw_bytes += up + down
        accepted = len(rows) - taken_before
        if accepted:
            self.sent.append((batch.reporter, raw_bytes))
        return Receipt(accepted, len(duplicates), self._conflicts(duplicates), tuple(full))

    def _conflicts(self, duplicates: Sequence[tuple[Report, int]]) -> int:
        """Count the duplicates whose content is not what is stored, while that is still kept."""
        conflicts = 0
        for report, seq in duplicates:
            stored: _Content | None
            if seq > self._after_seq:
                stored = self._rows[seq - self._after_seq - 1][1:4]
            else:
                stored = self._db.execute(_CONTENT, (seq,)).fetchone()
            series_key = (report.username, report.server, report.port, report.protocol)
            sent = (self._find_series(series_key), report.upload_bytes, report.download_bytes)
            conflicts += stored is not None and stored != sent
        return conflicts

    def _series_ids(self, *key_columns: Sequence[Any]) -> Sequence[int]:
        """Return the ids of series, given the columns of their keys; some may be new ones."""
        recent = zip(self._series.recent(*key_columns), zip(*key_columns, strict=True), strict=True)
        return [self._series_id(key) if found is None else found for found, key in recent]

    def _series_id(self, key: SeriesKey) -> int:
        """Return the id of a series, which may be a new one."""
        found = self._find_series(key)
        if found is None:
            (found,) = self._db.execute(_ADD_SERIES, key).fetchone()
            self._series.remember(key, found)
        return found

    def _find_series(self, key: SeriesKey) -> int | None:
        found = self._series.get(key)
        if found is None:
            for (found,) in self._db.execute(_FIND_SERIES, key):
                self._series.remember(key, found)
        return found


@functools.lru_cache
def _receipt(accepted: int) -> Receipt:
    return Receipt(accepted, 0)
