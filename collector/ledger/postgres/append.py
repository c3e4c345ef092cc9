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
from collector.ledger.capacity import Room, billed_bytes_of
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
        conflicts = 0
        for report, stored in self.duplicates:
            content = _content(stored, id_of) if isinstance(stored, Report) else stored
            conflicts += content != _content(report, id_of)
        return Receipt(self.accepted, len(self.duplicates), conflicts, tuple(self.full))


def _content(report: Report, id_of: IdOf) -> Content:
    return (id_of(report), report.upload_bytes, report.download_bytes)


@dataclass(slots=True)
class _Part:
    """The reports of one commit for one partition: a row of `report_group`."""

    place: int
    reports: int = 0
    raw_bytes: int = 0
    billed_bytes: int = 0


class Group:
    """The new reports of one commit, for so many partitions."""

    def __init__(
        self, known: Mapping[bytes, Content], *, room: Room | None = None, partitions: int = 1
    ) -> None:
        self._known = known
        self._partitions = partitions
        self._parts: dict[int, _Part] = {}
        self.room = room
        """Checks each report against its user's total; None if all fit."""
        self._fresh: dict[bytes, Report] = {}
        self.rows: list[tuple[Report, str]] = []
        """The reports, each with its sender's scope."""
        self._scopes: dict[str, None] = {}
        self._places: list[tuple[int, int]] = []
        """For each, the place of its part, from 1, and its own place in the part, from 0."""
        self.duplicates: list[tuple[Report, Content | Report]] = []
        self.raw_bytes = self.billed_bytes = 0

    @property
    def is_repeatable(self) -> bool:
        """Whether every report has an id, so that a retry of the commit counts none twice."""
        return all(report.report_key is not None for report, _ in self.rows)

    def take(self, batch: Batch) -> Taken:
        """Add the new reports of a request that fit their users' totals."""
        taken = Taken()
        room = self.room
        for place, report in enumerate(batch.reports):
            key = report.report_key
            if key is not None:
                stored = self._known.get(key) or self._fresh.get(key)
                if stored is not None:
                    taken.duplicates.append((report, stored))
                    continue
            if room is not None and not room.take(report):
                taken.full.append(place)
                continue
            if key is not None:
                self._fresh[key] = report
            self._scopes[batch.reporter] = None
            self.rows.append((report, batch.reporter))
            taken.accepted += 1
            self._assign(report)
        self.duplicates += taken.duplicates
        return taken

    def _assign(self, report: Report) -> None:
        number = part_of(report.username, self._partitions)
        part = self._parts.get(number)
        if part is None:
            part = self._parts[number] = _Part(len(self._parts) + 1)
        raw_bytes = report.upload_bytes + report.download_bytes
        billed_bytes = billed_bytes_of(report)
        self._places.append((part.place, part.reports))
        part.reports += 1
        part.raw_bytes += raw_bytes
        part.billed_bytes += billed_bytes
        self.raw_bytes += raw_bytes
        self.billed_bytes += billed_bytes

    def store(
        self, db: Db, group_id: int, id_of: IdOf, *, epoch: int, received_at_millis: int
    ) -> None:
        """Store the reports in one statement; the first part has the given id.

        Raises KnownIdError if an id is stored by now, and StaleSeriesError if series were dropped
        since the given epoch, so that some may be remembered; then nothing is stored.

        Ids are inserted in their order, so that two commits that share some wait for each other
        and never both ways round.
        """
        keys = [report.report_key or b"" for report, _ in self.rows]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        reports = [self.rows[index][0] for index in order]
        places = [self._places[index] for index in order]
        scopes = {scope: number for number, scope in enumerate(self._scopes, start=1)}
        parts = self._parts.values()
        group_ids = [group_id, *(new_group_id() for _ in range(len(parts) - 1))]
        values = {
            "epoch": epoch,
            "received_at": received_at_millis,
            "group_ids": _array(group_ids),
            "group_parts": _array(list(self._parts)),
            "group_reports": _array([part.reports for part in parts]),
            "group_raw": _array([part.raw_bytes for part in parts]),
            "group_billed": _array([part.billed_bytes for part in parts]),
            "scopes": list(scopes),
            "parts": _array([part for part, _ in places]),
            "positions": _array([position for _, position in places]),
            "keys": _array([_blob(each.report_key) for each in reports]),
            "series": _array([_number(id_of(each)) for each in reports]),
            "uploads": _array([each.upload_bytes for each in reports]),
            "downloads": _array([each.download_bytes for each in reports]),
            "billed": _array([_number(each.billed_bytes) for each in reports]),
            "connections": _array([each.connections for each in reports]),
            "reported_at": _array([each.reported_at_millis for each in reports]),
            "reporters": _array([scopes[self.rows[index][1]] for index in order]),
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
    return "{" + ",".join([str(each) for each in values]) + "}"


def _number(value: int | None) -> int | str:
    return "NULL" if value is None else value


def _blob(value: bytes | None) -> str:
    return "NULL" if value is None else f'"\\\\x{value.hex()}"'
