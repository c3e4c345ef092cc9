"""One commit of a collector to a PostgreSQL ledger: its reports, and the outcome per request.

Its reports are stored as one group for each partition of the sums.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from psycopg import errors as pg

from collector.ledger import Batch, Receipt
from collector.ledger.capacity import Room
from collector.ledger.postgres.link import Db
from collector.ledger.postgres.sums.partitions import part_of
from collector.reports.report import Report

Content = tuple[int | None, int, int]
"""A report's series, upload and download bytes, which a duplicate must have, too."""
IdOf = Callable[[Report], int | None]

# Stores all or nothing in one round trip: nothing if one of the ids is known, or if series were
# dropped since the epoch. The row lock serialises commits with the dropping of series.
_STORE = """
    WITH kept AS (SELECT 1 FROM series_epoch WHERE id = 1 AND epoch = %(epoch)s FOR KEY SHARE),
    known AS (SELECT 1 FROM report WHERE report_key = ANY(%(keys)s::bytea[])),
    grouped AS (
        INSERT INTO report_group (id, part, reports, raw_bytes, billed_bytes, received_at)
        SELECT g.*, %(received_at)s::bigint
        FROM kept CROSS JOIN unnest(%(group_ids)s::bigint[], %(group_parts)s::int[],
            %(group_reports)s::int[], %(group_raw)s::numeric[], %(group_billed)s::numeric[]) AS g
        WHERE NOT EXISTS (SELECT 1 FROM known)
    ), stored AS (
        INSERT INTO report (group_id, position, report_key, series_id, upload_bytes,
            download_bytes, billed_bytes, connections, reported_at, reporter)
        SELECT (%(group_ids)s::bigint[])[part], position, report_key, series_id, upload_bytes,
            download_bytes, billed_bytes, connections, reported_at,
            (%(scopes)s::text[])[reporter]
        FROM kept CROSS JOIN unnest(%(parts)s::int[], %(positions)s::int[], %(keys)s::bytea[],
            %(series)s::bigint[], %(uploads)s::bigint[], %(downloads)s::bigint[],
            %(billed)s::bigint[], %(connections)s::int[], %(reported_at)s::bigint[],
            %(reporters)s::int[])
            AS r (part, position, report_key, series_id, upload_bytes, download_bytes, billed_bytes,
                connections, reported_at, reporter)
        WHERE NOT EXISTS (SELECT 1 FROM known)
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM stored), EXISTS (SELECT 1 FROM known)
"""


def known_contents(db: Db, keys: Sequence[bytes]) -> dict[bytes, Content]:
    """Return the contents of the known ones of these ids."""
    rows = db.execute(
        "SELECT report_key, series_id, upload_bytes, download_bytes FROM report "
        "WHERE report_key = ANY(%s::bytea[])",
        (_array([_blob(key) for key in keys]),),
    )
    return {bytes(key): (series_id, up, down) for key, series_id, up, down in rows}


def new_group_id() -> int:
    """Return a group id above earlier ones, which no other collector uses."""
    return (time.time_ns() // 1_000_000 << 21) | secrets.randbits(21)


def is_id_kept(db: Db, key: bytes) -> bool:
    """Tell whether an id is known, in a transaction whose commit waits for the standby.

    The row lock is written to the WAL after the commit that stored the row, so once this commit is
    confirmed, that one is as well.
    """
    query = "SELECT 1 FROM report WHERE report_key = %s FOR KEY SHARE"
    return db.execute(query, (key,)).fetchone() is not None


def is_group_kept(db: Db, group_id: int) -> bool:
    """Tell whether a group is stored, in the same way."""
    query = "SELECT 1 FROM report_group WHERE id = %s FOR KEY SHARE"
    return db.execute(query, (group_id,)).fetchone() is not None


@dataclass(slots=True)
class Taken:
    """The new and the duplicate reports of one request."""

    accepted: int = 0
    full: list[int] = field(default_factory=list)
    """Indexes of the reports that do not fit their user's total."""
    duplicates: list[tuple[Report, Content | Report]] = field(default_factory=list)
    """Duplicates, with the content that is, or will be, stored under their id."""

    def receipt(self, id_of: IdOf) -> Receipt:
        """Return the receipt, once the series of all its reports were looked up."""
        if not self.duplicates:
            return Receipt(self.accepted, 0, 0, tuple(self.full))
        conflicts = 0
        for report, stored in self.duplicates:
            content = _content(stored, id_of) if isinstance(stored, Report) else stored
            conflicts += content != _content(report, id_of)
        return Receipt(self.accepted, len(self.duplicates), conflicts, tuple(self.full))


def _content(report: Report, id_of: IdOf) -> Content:
    return (id_of(report), report.upload_bytes, report.download_bytes)


class _Part:
    """The reports of one commit for one partition: a row of `report_group`."""

    __slots__ = ("billed_bytes", "number", "place", "raw_bytes", "reports")

    def __init__(self, number: int, place: int) -> None:
        self.number = number
        self.place = place
        """From 1, among those of the commit."""
        self.reports = self.raw_bytes = self.billed_bytes = 0


class Group:
    """The new reports of one commit, for so many partitions."""

    def __init__(
        self, known: Mapping[bytes, Content], *, room: Room | None = None, partitions: int = 1
    ) -> None:
        self._known = known
        self._partitions = partitions
        self.room = room
        """Checks each report against its user's total; None if all fit."""
        self._fresh: dict[bytes, Report] = {}
        self.reports: list[Report] = []
        self._scopes: dict[str, int] = {}
        """The senders' scopes, each with its place, from 1."""
        self._reporters: list[int] = []
        """For each report, the place of its sender's scope."""
        self.duplicates: list[tuple[Report, Content | Report]] = []
        self.raw_bytes = self.billed_bytes = 0
        """Those of all reports, once they were sent to be stored."""

    @property
    def is_repeatable(self) -> bool:
        """Whether every report has an id, so that a retry of the commit counts none twice."""
        return len(self._fresh) == len(self.reports)

    def take(self, batch: Batch) -> Taken:
        """Add the new reports of a request that fit their users' totals."""
        taken = Taken()
        room, known, fresh = self.room, self._known, self._fresh
        scope = self._scopes.setdefault(batch.reporter, len(self._scopes) + 1)
        for place, report in enumerate(batch.reports):
            key = report.report_key
            if key is not None:
                stored = known.get(key) or fresh.get(key)
                if stored is not None:
                    taken.duplicates.append((report, stored))
                    continue
            if room is not None and not room.take(report):
                taken.full.append(place)
                continue
            if key is not None:
                fresh[key] = report
            self.reports.append(report)
            self._reporters.append(scope)
            taken.accepted += 1
        self.duplicates += taken.duplicates
        return taken

    def _divide(self) -> tuple[list[_Part], list[int], list[int]]:
        """Return the parts, and for each report the place of its part and its own in that."""
        parts: dict[int, _Part] = {}
        places, positions = [], []
        for report in self.reports:
            number = part_of(report.username, self._partitions)
            part = parts.get(number)
            if part is None:
                part = parts[number] = _Part(number, len(parts) + 1)
            places.append(part.place)
            positions.append(part.reports)
            raw_bytes = report.upload_bytes + report.download_bytes
            billed_bytes = report.billed_bytes
            part.reports += 1
            part.raw_bytes += raw_bytes
            part.billed_bytes += raw_bytes if billed_bytes is None else billed_bytes
        self.raw_bytes = sum(part.raw_bytes for part in parts.values())
        self.billed_bytes = sum(part.billed_bytes for part in parts.values())
        return list(parts.values()), places, positions

    def store(
        self, db: Db, group_id: int, id_of: IdOf, *, epoch: int, received_at_millis: int
    ) -> None:
        """Store the reports in one statement; the first part has the given id.

        Raises KnownIdError if an id is stored by now, and StaleSeriesError if series were dropped
        since the given epoch, so that some may be remembered; then nothing is stored.

        Ids are inserted in their order, so that two commits that share some wait for each other
        and never both ways round.
        """
        parts, places, positions = self._divide()
        keys = [report.report_key or b"" for report in self.reports]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        reports = [self.reports[index] for index in order]
        group_ids = [group_id, *(new_group_id() for _ in range(len(parts) - 1))]
        values = {
            "epoch": str(epoch),
            "received_at": str(received_at_millis),
            "group_ids": _array(group_ids),
            "group_parts": _array([part.number for part in parts]),
            "group_reports": _array([part.reports for part in parts]),
            "group_raw": _array([part.raw_bytes for part in parts]),
            "group_billed": _array([part.billed_bytes for part in parts]),
            "scopes": _array([_text(scope) for scope in self._scopes]),
            "parts": _array([places[index] for index in order]),
            "positions": _array([positions[index] for index in order]),
            "keys": _array([_blob(each.report_key) for each in reports]),
            "series": _array([_number(id_of(each)) for each in reports]),
            "uploads": _array([each.upload_bytes for each in reports]),
            "downloads": _array([each.download_bytes for each in reports]),
            "billed": _array([_number(each.billed_bytes) for each in reports]),
            "connections": _array([each.connections for each in reports]),
            "reported_at": _array([each.reported_at_millis for each in reports]),
            "reporters": _array([self._reporters[index] for index in order]),
        }
        try:
            stored, is_known = db.execute(_STORE, values).fetchone() or (0, False)
        except pg.UniqueViolation as error:  # another collector stored it during the statement
            raise KnownIdError from error
        if is_known:
            raise KnownIdError
        if stored != len(reports):
            raise StaleSeriesError


class KnownIdError(Exception):
    """One of the ids is stored, maybe by another collector meanwhile; nothing was stored."""


class StaleSeriesError(Exception):
    """Series were dropped meanwhile; nothing was stored."""


def _array(values: Sequence[int | str]) -> str:
    """Encode an array literal; the driver's adaptation takes longer than storing it."""
    return f"{{{','.join(map(str, values))}}}"


def _number(value: int | None) -> int | str:
    return "NULL" if value is None else value


def _text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _blob(value: bytes | None) -> str:
    return "NULL" if value is None else f'"\\\\x{value.hex()}"'
