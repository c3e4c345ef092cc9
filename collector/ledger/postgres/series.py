"""The ids of series in a PostgreSQL ledger, remembered by each collector."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from collector.ledger.postgres.link import Db
from collector.ledger.statistics_values import (
    IdleSeries,
)
from collector.reports.report import Report
from collector.reports.server_bounds import OTHER_PORT, OTHER_PROTOCOL, OTHER_SERVER

MAX_CACHED = 500_000

SeriesKey = tuple[str, str, int, str]

_WANTED = (
    "unnest(%s::text[], %s::text[], %s::int[], %s::text[]) AS w (username, server, port, protocol)"
)
_OTHER = {"server": OTHER_SERVER, "port": OTHER_PORT, "protocol": OTHER_PROTOCOL}
_IS_OTHER = "server = %(server)s AND port = %(port)s AND protocol = %(protocol)s"
_IN_USE = "(reports <> 0 OR upload_bytes <> 0 OR download_bytes <> 0 OR billed_bytes <> 0)"
_IDLE = f"""
    SELECT id, reports, upload_bytes, download_bytes, billed_bytes FROM (
        SELECT *, {_IN_USE} AS is_in_use, row_number() OVER (
            PARTITION BY username, {_IN_USE} ORDER BY last_used_at DESC, id DESC
        ) AS place
        FROM series AS s WHERE NOT ({_IS_OTHER})
            AND NOT EXISTS (SELECT 1 FROM usage_day AS u WHERE u.series_id = s.id)
            AND NOT EXISTS (SELECT 1 FROM report AS r WHERE r.series_id = s.id)
    ) AS candidates WHERE NOT is_in_use OR place > %(kept)s LIMIT %(limit)s
"""
_UNCHANGED = """
    SELECT s.id FROM series AS s
    JOIN unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
        AS f (id, reports, upload_bytes, download_bytes, billed_bytes)
        USING (id, reports, upload_bytes, download_bytes, billed_bytes)
    WHERE s.id NOT IN (SELECT r.series_id FROM report_group AS g
        JOIN report AS r ON r.group_id = g.id WHERE g.first_seq IS NULL)
"""
_MAKE_OTHERS = f"""
    INSERT INTO series (username, server, port, protocol)
    SELECT DISTINCT username, %(server)s, %(port)s::int, %(protocol)s FROM series AS s
    WHERE id = ANY(%(ids)s) AND ({_IN_USE}
        OR EXISTS (SELECT 1 FROM correction_line AS l WHERE l.series_id = s.id))
    ON CONFLICT (username, server, port, protocol) DO NOTHING
"""
_ADD_TO_OTHERS = f"""
    UPDATE series AS o SET upload_bytes = o.upload_bytes + f.upload_bytes,
        download_bytes = o.download_bytes + f.download_bytes,
        billed_bytes = o.billed_bytes + f.billed_bytes,
        connections = o.connections + f.connections, reports = o.reports + f.reports,
        last_used_at = greatest(o.last_used_at, f.last_used_at)
    FROM (
        SELECT username, sum(upload_bytes)::bigint AS upload_bytes,
            sum(download_bytes)::bigint AS download_bytes,
            sum(billed_bytes)::bigint AS billed_bytes,
            sum(connections)::bigint AS connections, sum(reports)::bigint AS reports,
            max(last_used_at) AS last_used_at
        FROM series WHERE id = ANY(%(ids)s) GROUP BY username
    ) AS f WHERE o.username = f.username AND {_IS_OTHER}
"""
_MOVE_LINES = """
    UPDATE correction_line AS l SET series_id = o.id
    FROM series AS s JOIN series AS o ON o.username = s.username
    WHERE s.id = l.series_id AND s.id = ANY(%(ids)s)
        AND o.server = %(server)s AND o.port = %(port)s AND o.protocol = %(protocol)s
"""


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


def idle(db: Db, *, kept_per_user: int, limit: int) -> list[IdleSeries]:
    """Return series that could be dropped now; see `IdleSeries`."""
    rows = db.execute(_IDLE, {**_OTHER, "kept": kept_per_user, "limit": limit})
    return [IdleSeries(*row) for row in rows]


def drop(db: Db, found: Sequence[IdleSeries]) -> int:
    """Drop those that are as they were found; return how many.

    Within a transaction, with the leader waiting. No commit is under way beside it, and the next
    ones look series up anew.
    """
    db.execute("SELECT epoch FROM series_epoch WHERE id = 1 FOR UPDATE")
    rows = db.execute(
        _UNCHANGED,
        (
            [s.id for s in found],
            [s.reports for s in found],
            [s.upload_bytes for s in found],
            [s.download_bytes for s in found],
            [s.billed_bytes for s in found],
        ),
    ).fetchall()
    if not rows:
        return 0
    parameters = {**_OTHER, "ids": [row[0] for row in rows]}
    for statement in (_MAKE_OTHERS, _ADD_TO_OTHERS, _MOVE_LINES):
        db.execute(statement, parameters)
    # By the time: a database that lacks the last epochs gives none of them out again.
    db.execute(
        "UPDATE series_epoch SET epoch = "
        "greatest(epoch + 1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint) WHERE id = 1"
    )
    return db.execute("DELETE FROM series WHERE id = ANY(%(ids)s)", parameters).rowcount


def _columns(keys: Sequence[SeriesKey]) -> tuple[list[str], list[str], list[int], list[str]]:
    return (
        [key[0] for key in keys],
        [key[1] for key in keys],
        [key[2] for key in keys],
        [key[3] for key in keys],
    )
