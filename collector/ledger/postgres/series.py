"""The ids of series in a PostgreSQL ledger, cached by each collector."""

from __future__ import annotations

from collections.abc import Sequence

from collector.ledger.postgres.database import PostgresDatabase
from collector.ledger.postgres.link import Db
from collector.ledger.sql import series as sql_series
from collector.ledger.statistics_values import (
    IdleSeries,
)
from collector.reports.report import Report

MAX_CACHED = 500_000

SeriesKey = tuple[str, str, int, str]

_COLUMNS = "username, server, port, protocol"
_LOOK_UP = f"""
    SELECT s.id, {_COLUMNS}
    FROM unnest(%s::text[], %s::text[], %s::int[], %s::text[]) AS w ({_COLUMNS})
    JOIN series AS s USING ({_COLUMNS})
"""
# In the order of the keys, so that two collectors wait for each other and never both ways round.
_MAKE = f"""
    WITH wanted AS (
        SELECT s.id, {_COLUMNS}, w.place
        FROM unnest(%s::text[], %s::text[], %s::int[], %s::text[])
            WITH ORDINALITY AS w ({_COLUMNS}, place)
        LEFT JOIN series AS s USING ({_COLUMNS})
    ), made AS (
        INSERT INTO series ({_COLUMNS})
        SELECT {_COLUMNS} FROM wanted WHERE id IS NULL ORDER BY place
        ON CONFLICT ({_COLUMNS}) DO NOTHING RETURNING id, {_COLUMNS}
    )
    SELECT id, {_COLUMNS} FROM wanted WHERE id IS NOT NULL
    UNION ALL SELECT id, {_COLUMNS} FROM made
"""
_TRIES = 3
"""A series that another collector makes at the same moment is looked up by the next try."""


def key_of(report: Report) -> SeriesKey:
    """Return the key of a report's series."""
    return (report.username, report.server, report.port, report.protocol)


class SeriesIds:
    """A cache of the ids of series.

    A series is created before its first report, in a transaction of its own, so that commits do not
    wait for each other. A series without reports has no effect.
    """

    def __init__(self) -> None:
        self._ids: dict[SeriesKey, int] = {}

    def clear(self) -> None:
        """Clear the cache, since the ledger may be another copy now."""
        self._ids.clear()

    def get(self, report: Report) -> int | None:
        """Return the id of a report's series, if it is cached."""
        return self._ids.get(key_of(report))

    def missing(self, reports: Sequence[Report]) -> list[SeriesKey]:
        """Return the keys that are not cached, sorted, so that collectors insert in one order."""
        ids = self._ids
        return sorted({key for key in map(key_of, reports) if key not in ids})

    def find(self, db: Db, keys: Sequence[SeriesKey]) -> None:
        """Look up series; create none."""
        self._note(db, _LOOK_UP, keys)

    def make(self, db: Db, keys: Sequence[SeriesKey]) -> None:
        """Look up series, and create the missing ones."""
        for _ in range(_TRIES):
            if not keys:
                return
            self._note(db, _MAKE, keys)
            keys = [key for key in keys if key not in self._ids]

    def _note(self, db: Db, query: str, keys: Sequence[SeriesKey]) -> None:
        if len(self._ids) + len(keys) > MAX_CACHED:
            self._ids.clear()
        for series_id, *key in db.execute(query, _columns(keys)):
            self._ids[(key[0], key[1], key[2], key[3])] = series_id


def epoch(db: Db) -> int:
    """Return a number that increases whenever series are dropped."""
    row = db.execute("SELECT epoch FROM series_epoch WHERE id = 1").fetchone()
    return 0 if row is None else int(row[0])


def drop(db: Db, found: Sequence[IdleSeries]) -> int:
    """Drop those series that have not changed since; return how many.

    It runs in a transaction that excludes the leader and all commits; later commits look their
    series up again.
    """
    db.execute("SELECT epoch FROM series_epoch WHERE id = 1 FOR UPDATE")
    dropped = sql_series.drop(PostgresDatabase(db), found)
    if dropped:
        # From the clock, so that a restored database does not reuse the lost epochs.
        db.execute(
            "UPDATE series_epoch SET epoch = greatest(epoch + 1, "
            "(extract(epoch FROM statement_timestamp()) * 1000)::bigint) WHERE id = 1"
        )
    return dropped


def _columns(keys: Sequence[SeriesKey]) -> tuple[list[str], list[str], list[int], list[str]]:
    return (
        [key[0] for key in keys],
        [key[1] for key in keys],
        [key[2] for key in keys],
        [key[3] for key in keys],
    )
