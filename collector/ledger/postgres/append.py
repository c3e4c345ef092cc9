"""What one commit of a collector stores in a PostgreSQL ledger, and what became of each request."""

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
"""A report's series, bytes up and down: what a repeated id must agree with."""
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
# Whoever drops series waits for the rows that are locked here, and is waited for.
_STORE_GROUP = """
    INSERT INTO report_group (id, reports, raw_bytes, billed_bytes, received_at)
    SELECT %s::bigint, %s::int, %s::numeric, %s::numeric, %s::bigint
    FROM (SELECT epoch FROM series_epoch WHERE epoch = %s FOR KEY SHARE) AS e
"""


def known_contents(db: Db, keys: Sequence[bytes]) -> dict[bytes, Content]:
    """Return what is stored under those of the ids that are known."""
    rows = db.execute(
        "SELECT report_key, series_id, upload_bytes, download_bytes FROM report "
        "WHERE report_key = ANY(%s::bytea[])",
        (_blobs(keys),),
    )
    return {bytes(key): (series_id, up, down) for key, series_id, up, down in rows}


def new_group_id() -> int:
    """Make an id that is after those made before, and that no other collector makes."""
    return (time.time_ns() // 1_000_000 << 21) | secrets.randbits(21)


def is_id_kept(db: Db, key: bytes) -> bool:
    """Tell whether an id is known, within a transaction whose commit waits as any other does.

    To lock the row is written to the server's log, behind the commit that stored it.
    """
    query = "SELECT 1 FROM report WHERE report_key = %s FOR KEY SHARE"
    return db.execute(query, (key,)).fetchone() is not None


def is_group_kept(db: Db, group_id: int) -> bool:
    """Tell the same of a group."""
    query = "SELECT 1 FROM report_group WHERE id = %s FOR KEY SHARE"
    return db.execute(query, (group_id,)).fetchone() is not None


@dataclass(slots=True)
class Taken:
    """What is taken of one request."""

    accepted: int = 0
    full: list[int] = field(default_factory=list)
    """Places of the reports whose user's total is too full for them."""
    duplicates: list[tuple[Report, Content | Report]] = field(default_factory=list)
    """Reports whose id is known, with what is, or will be, stored under it."""

    def receipt(self, id_of: IdOf) -> Receipt:
        """Say what became of it, once the series of all its reports were looked up."""
        conflicts = 0
        for report, stored in self.duplicates:
            content = _content(stored, id_of) if isinstance(stored, Report) else stored
            conflicts += content != _content(report, id_of)
        return Receipt(self.accepted, len(self.duplicates), conflicts, tuple(self.full))


def _content(report: Report, id_of: IdOf) -> Content:
    return (id_of(report), report.upload_bytes, report.download_bytes)


class Group:
    """The reports of one commit: those that are not known yet."""

    def __init__(self, known: Mapping[bytes, Content], *, room: Room | None = None) -> None:
        self._known = known
        self.room = room
        """Decides about each report; None where all fit."""
        self._fresh: dict[bytes, Report] = {}
        self.rows: list[tuple[Report, str]] = []
        """Each with who reported it, in the order they are numbered in."""
        self.duplicates: list[tuple[Report, Content | Report]] = []
        self.raw_bytes = self.billed_bytes = 0

    @property
    def is_repeatable(self) -> bool:
        """Whether every report has an id, so that none counts twice if all are stored again."""
        return all(report.report_key is not None for report, _ in self.rows)

    def take(self, batch: Batch) -> Taken:
        """Take what is new of a request, and fits the totals of its users."""
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
        """Store the reports within a transaction; LostRaceError where an id is not new any more.

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
    """Another collector stored one of the ids meanwhile; this transaction must store nothing."""


class StaleSeriesError(Exception):
    """Series were dropped meanwhile; this transaction must store nothing."""


def _numbers(values: Iterable[int | None]) -> str:
    """Spell an array; one at a time would take the driver longer than storing it."""
    return "{" + ",".join("NULL" if each is None else str(each) for each in values) + "}"


def _blobs(values: Iterable[bytes | None]) -> str:
    return (
        "{" + ",".join("NULL" if each is None else f'"\\\\x{each.hex()}"' for each in values) + "}"
    )
