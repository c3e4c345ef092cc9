"""What one commit of an SQLite ledger stores: the rows of reports, and the batches' receipts."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Sequence
from itertools import chain, repeat

from msgspec.structs import astuple

from collector.ledger import Batch, Receipt
from collector.ledger.capacity import Room
from collector.ledger.sqlite.series_ids import SeriesIds, SeriesKey
from collector.ledger.sqlite.unfolded import ReportRow
from collector.reports.report import Report

_FIND_SERIES = (
    "SELECT id FROM series WHERE username = ? AND server = ? AND port = ? AND protocol = ?"
)
_ADD_SERIES = (
    "INSERT INTO series (username, server, port, protocol) VALUES (?, ?, ?, ?) RETURNING id"
)
_CONTENT = "SELECT series_id, upload_bytes, download_bytes FROM report WHERE seq = ?"
_Content = tuple[int | None, int, int]


class CommitGroup:
    """The rows that one commit will store, and their sums; within its transaction.

    `known` has the seq of each id that is stored already, and `room` decides about each report;
    None where all fit.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        series: SeriesIds,
        *,
        known: dict[bytes, int],
        room: Room | None,
        last_seq: int,
        received_at_millis: int,
    ) -> None:
        self._db = db
        self._series = series
        self._known = known
        self._room = room
        self._first_seq = last_seq + 1
        self._received_at_millis = received_at_millis
        self.last_seq = last_seq
        self.raw_bytes = self.billed_bytes = 0
        self.rows: list[ReportRow] = []
        self.sent: list[tuple[str, int]] = []
        """The raw bytes of each batch, with its sender."""

    def take(self, batches: Sequence[Batch], keys: Sequence[bytes]) -> list[Receipt]:
        """Take the reports of all batches, whose ids are `keys`; return the receipts."""
        if not self._known and self._room is None and len(set(keys)) == len(keys):
            return self._take_new(batches)
        return [self._take(batch) for batch in batches]

    def _take_new(self, batches: Sequence[Batch]) -> list[Receipt]:
        """Take reports that all fit, and none of which is a duplicate; as `_take`, but faster."""
        fields = [astuple(report) for batch in batches for report in batch.reports]
        find = self._series.recent.get
        ids = [find(key := each[:4]) or self._series_id(key) for each in fields]
        reporters = chain.from_iterable(repeat(it.reporter, len(it.reports)) for it in batches)
        self.last_seq = self._first_seq + len(fields) - 1
        seqs, at = range(self._first_seq, self.last_seq + 1), self._received_at_millis
        self.rows = [
            (seq, it[8], series_id, it[4], it[5], it[6], it[7], at, reporter, it[9])
            for seq, it, series_id, reporter in zip(seqs, fields, ids, reporters, strict=True)
        ]
        amounts = [it[4] + it[5] for it in fields]
        self.raw_bytes = sum(amounts)
        self.billed_bytes = sum(
            [raw if it[9] is None else it[9] for raw, it in zip(amounts, fields, strict=True)]
        )
        start = 0
        for batch in batches:
            end = start + len(batch.reports)
            if end > start:
                self.sent.append((batch.reporter, sum(amounts[start:end])))
            start = end
        return [_receipt(len(batch.reports)) for batch in batches]

    def _take(self, batch: Batch) -> Receipt:
        """Take the reports of a batch that are new and fit; their ids become known."""
        duplicates: list[tuple[Report, int]] = []
        full: list[int] = []
        known, room, seq = self._known, self._room, self.last_seq
        raw_bytes = billed_bytes = 0
        for place, report in enumerate(batch.reports):
            fields = astuple(report)
            key, up, down, billed = fields[8], fields[4], fields[5], fields[9]
            if key is not None and (stored := known.get(key)) is not None:
                duplicates.append((report, stored))
                continue
            if room is not None and not room.take(report):
                full.append(place)
                continue
            series_id = self._series_id(fields[:4])
            seq += 1
            if key is not None:
                known[key] = seq
            received = self._received_at_millis, batch.reporter
            self.rows.append((seq, key, series_id, *fields[4:8], *received, billed))
            raw_bytes += up + down
            billed_bytes += up + down if billed is None else billed
        accepted, self.last_seq = seq - self.last_seq, seq
        self.raw_bytes += raw_bytes
        self.billed_bytes += billed_bytes
        if accepted:
            self.sent.append((batch.reporter, raw_bytes))
        return Receipt(accepted, len(duplicates), self._conflicts(duplicates), tuple(full))

    def _conflicts(self, duplicates: Sequence[tuple[Report, int]]) -> int:
        """Count the duplicates whose content is not what is stored, while that is still kept."""
        conflicts = 0
        for report, seq in duplicates:
            stored: _Content | None
            if seq >= self._first_seq:
                stored = self.rows[seq - self._first_seq][2:5]
            else:
                stored = self._db.execute(_CONTENT, (seq,)).fetchone()
            series_key = (report.username, report.server, report.port, report.protocol)
            sent = (self._find_series(series_key), report.upload_bytes, report.download_bytes)
            conflicts += stored is not None and stored != sent
        return conflicts

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
