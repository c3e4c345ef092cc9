"""One commit of a collector to a PostgreSQL ledger: its reports, and the outcome per request."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from collector.ledger import Batch, Receipt
from collector.ledger.capacity import Room, billed_bytes_of
from collector.ledger.postgres.link import Db
from collector.reports.report import Report

Content = tuple[int | None, int, int]
"""A report's series, upload and download bytes, which a duplicate must have, too."""
IdOf = Callable[[Report], int | None]

_STORE = """
    INSERT INTO report (group_id, position, report_key, series_id, upload_bytes, download_bytes,
        billed_bytes, connections, reported_at, reporter)
    SELECT %s, position, report_key, series_id, upload_bytes, download_bytes, billed_bytes,
        connections, reported_at, (%s::text[])[reporter]
    FROM unnest(%s::int[], %s::bytea[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
        %s::int[], %s::bigint[], %s::int[])
        AS r (position, report_key, series_id, upload_bytes, download_bytes, billed_bytes,
            connections, reported_at, reporter)
    ON CONFLICT (report_key) DO NOTHING
"""
# These row locks serialise commits with the dropping of series.
_STORE_GROUP = """
    INSERT INTO report_group (id, reports, raw_bytes, billed_bytes, received_at)
    SELECT %s::bigint, %s::int, %s::numeric, %s::numeric, %s::bigint
    FROM (SELECT epoch FROM series_epoch WHERE epoch = %s FOR KEY SHARE) AS e
"""


def known_contents(db: Db, keys: Sequence[bytes]) -> dict[bytes, Content]:
    """Return the contents of the known ones of these ids."""
    rows = db.execute(
        "SELECT report_key, series_id, upload_bytes, download_bytes FROM report "
        "WHERE report_key = ANY(%s::bytea[])",
        (_blobs(keys),),
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


class Group:
    """The new reports of one commit."""

    def __init__(self, known: Mapping[bytes, Content], *, room: Room | None = None) -> None:
        self._known = known
        self.room = room
        """Checks each report against its user's total; None if all fit."""
        self._fresh: dict[bytes, Report] = {}
        self.rows: list[tuple[Report, str]] = []
        """The reports, each with its sender's scope, in the order of their numbers."""
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
            self.rows.append((report, batch.reporter))
            taken.accepted += 1
            self.raw_bytes += report.upload_bytes + report.download_bytes
            self.billed_bytes += billed_bytes_of(report)
        self.duplicates += taken.duplicates
        return taken

    def store(
        self, db: Db, group_id: int, id_of: IdOf, *, epoch: int, received_at_millis: int
    ) -> None:
        """Store the reports within a transaction; LostRaceError if an id was stored meanwhile.

        StaleSeriesError where series were dropped since the given epoch: some may be remembered.

        Ids are inserted in their order, so that two commits that share some wait for each other
        and never both ways round.
        """
        rows = sorted(enumerate(self.rows), key=lambda row: (row[1][0].report_key or b"", row[0]))
        scopes = dict.fromkeys(reporter for _, (_, reporter) in rows)
        reporters = {reporter: number for number, reporter in enumerate(scopes, start=1)}
        reports = [report for _, (report, _) in rows]
        stored = db.execute(
            _STORE,
            (
                group_id,
                list(reporters),
                _numbers(position for position, _ in rows),
                _blobs(each.report_key for each in reports),
                _numbers(id_of(each) for each in reports),
                _numbers(each.upload_bytes for each in reports),
                _numbers(each.download_bytes for each in reports),
                _numbers(each.billed_bytes for each in reports),
                _numbers(each.connections for each in reports),
                _numbers(each.reported_at_millis for each in reports),
                _numbers(reporters[reporter] for _, (_, reporter) in rows),
            ),
        ).rowcount
        if stored != len(rows):
            raise LostRaceError
        amounts = (group_id, len(rows), self.raw_bytes, self.billed_bytes, received_at_millis)
        if not db.execute(_STORE_GROUP, (*amounts, epoch)).rowcount:
            raise StaleSeriesError


class LostRaceError(Exception):
    """Another collector stored one of the ids meanwhile; roll this transaction back."""


class StaleSeriesError(Exception):
    """Series were dropped meanwhile; roll this transaction back."""


def _numbers(values: Iterable[int | None]) -> str:
    """Encode an array literal; the driver's adaptation takes longer than storing it."""
    return "{" + ",".join("NULL" if each is None else str(each) for each in values) + "}"


def _blobs(values: Iterable[bytes | None]) -> str:
    return (
        "{" + ",".join("NULL" if each is None else f'"\\\\x{each.hex()}"' for each in values) + "}"
    )
