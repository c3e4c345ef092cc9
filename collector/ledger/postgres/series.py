"""The ids of series in a PostgreSQL ledger, remembered by each collector."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from collector.ledger.postgres.database import PostgresDatabase
from collector.ledger.postgres.link import Db
from collector.ledger.sql import series as sql_series
from collector.ledger.statistics_values import (
    IdleSeries,
)
from collector.reports.report import Report

MAX_CACHED = 500_000

SeriesKey = tuple[str, str, int, str]

_WANTED = (
    "unnest(%s::text[], %s::text[], %s::int[], %s::text[]) AS w (username, server, port, protocol)"
)


def key_of(report: Report) -> SeriesKey:
    """Return what names a report's series."""
    return (report.username, report.server, report.port, report.protocol)


class SeriesIds:
    """Knows ids that were looked up before; a series that has an id keeps it.

    A series that no report of is stored has no effect: it is made before its first report, in a
    transaction of its own, so that commits do not wait for each other's new series.
    """

    def __init__(self) -> None:
        self._ids: dict[SeriesKey, int] = {}

    def clear(self) -> None:
        """Forget all: the ledger may be another copy now."""
        self._ids.clear()

    def get(self, report: Report) -> int | None:
        """Return the id of a report's series, if it is known to have one."""
        return self._ids.get(key_of(report))

    def find(self, db: Db, reports: Iterable[Report]) -> None:
        """Look up the series of some reports, as far as there are any."""
        if missing := self._missing(reports):
            self._look_up(db, missing)

    def make(self, db: Db, reports: Iterable[Report]) -> None:
        """Look up the series of some reports, and make those that are not there."""
        missing = self._missing(reports)
        if not missing:
            return
        self._look_up(db, missing)
        missing = [key for key in missing if key not in self._ids]
        if missing:
            db.execute(
                "INSERT INTO series (username, server, port, protocol) "
                f"SELECT username, server, port, protocol FROM {_WANTED} "
                "ON CONFLICT (username, server, port, protocol) DO NOTHING",
                _columns(missing),
            )
            self._look_up(db, missing)

    def _missing(self, reports: Iterable[Report]) -> list[SeriesKey]:
        """Return the unknown ones in an order that all collectors insert in."""
        return sorted({key for report in reports if (key := key_of(report)) not in self._ids})

    def _look_up(self, db: Db, keys: Sequence[SeriesKey]) -> None:
        if len(self._ids) + len(keys) > MAX_CACHED:
            self._ids.clear()
        rows = db.execute(
            f"SELECT s.id, s.username, s.server, s.port, s.protocol FROM {_WANTED} "
            "JOIN series AS s ON s.username = w.username AND s.server = w.server "
            "AND s.port = w.port AND s.protocol = w.protocol",
            _columns(keys),
        )
        for series_id, *key in rows:
            self._ids[(key[0], key[1], key[2], key[3])] = series_id


def epoch(db: Db) -> int:
    """Return a number that moves on whenever series are dropped."""
    row = db.execute("SELECT epoch FROM series_epoch WHERE id = 1").fetchone()
    return 0 if row is None else int(row[0])


def drop(db: Db, found: Sequence[IdleSeries]) -> int:
    """Drop those that are as they were found; return how many.

    Within a transaction, with the leader waiting. No commit is under way beside it, and the next
    ones look series up anew.
    """
    db.execute("SELECT epoch FROM series_epoch WHERE id = 1 FOR UPDATE")
    dropped = sql_series.drop(PostgresDatabase(db), found)
    if dropped:
        # By the time: a database that lacks the last epochs gives none of them out again.
        db.execute(
            "UPDATE series_epoch SET epoch = greatest(epoch + 1, "
            "(extract(epoch FROM clock_timestamp()) * 1000)::bigint) WHERE id = 1"
        )
    return dropped


def _columns(keys: Sequence[SeriesKey]) -> tuple[list[str], list[str], list[int], list[str]]:
    return (
        [key[0] for key in keys],
        [key[1] for key in keys],
        [key[2] for key in keys],
        [key[3] for key in keys],
    )
