"""Drops series that nothing refers to any more, in an SQLite ledger; see `IdleSeries`."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from collector.ledger.statistics_values import (
    IdleSeries,
)
from collector.reports.server_bounds import OTHER_PORT, OTHER_PROTOCOL, OTHER_SERVER

_COLUMNS = "id, reports, upload_bytes, download_bytes, billed_bytes"
_OTHER = {"server": OTHER_SERVER, "port": OTHER_PORT, "protocol": OTHER_PROTOCOL}
_IS_OTHER = "server = :server AND port = :port AND protocol = :protocol"
_IN_USE = "(reports <> 0 OR upload_bytes <> 0 OR download_bytes <> 0 OR billed_bytes <> 0)"
_IDLE = f"""
    SELECT {_COLUMNS} FROM (
        SELECT *, {_IN_USE} AS is_in_use, row_number() OVER (
            PARTITION BY username, {_IN_USE} ORDER BY last_used_at DESC, id DESC
        ) AS place
        FROM series WHERE NOT ({_IS_OTHER})
            AND id NOT IN (SELECT series_id FROM usage_day)
            AND id NOT IN (SELECT series_id FROM report)
    ) WHERE NOT is_in_use OR place > :kept LIMIT :limit
"""
_DROPPING = """
    CREATE TEMP TABLE IF NOT EXISTS dropping (
        id INTEGER PRIMARY KEY, reports INTEGER, upload_bytes INTEGER, download_bytes INTEGER,
        billed_bytes INTEGER
    )
"""
_LEAVE_CHANGED = f"""
    DELETE FROM temp.dropping WHERE ({_COLUMNS}) NOT IN (SELECT {_COLUMNS} FROM series
        WHERE id IN (SELECT id FROM temp.dropping))
"""
_DROPPED = "SELECT * FROM series WHERE id IN (SELECT id FROM temp.dropping)"
_MAKE_OTHERS = f"""
    INSERT OR IGNORE INTO series (username, server, port, protocol)
    SELECT DISTINCT username, :server, :port, :protocol FROM ({_DROPPED}) AS s
    WHERE {_IN_USE} OR EXISTS (SELECT 1 FROM correction_line WHERE series_id = s.id)
"""
_ADD_TO_OTHERS = f"""
    UPDATE series SET upload_bytes = series.upload_bytes + f.upload_bytes,
        download_bytes = series.download_bytes + f.download_bytes,
        billed_bytes = series.billed_bytes + f.billed_bytes,
        connections = series.connections + f.connections,
        reports = series.reports + f.reports,
        last_used_at = max(series.last_used_at, f.last_used_at)
    FROM (
        SELECT username, sum(upload_bytes) AS upload_bytes, sum(download_bytes) AS download_bytes,
            sum(billed_bytes) AS billed_bytes, sum(connections) AS connections,
            sum(reports) AS reports, max(last_used_at) AS last_used_at
        FROM ({_DROPPED}) GROUP BY username
    ) AS f WHERE series.username = f.username AND {_IS_OTHER}
"""
_MOVE_LINES = f"""
    UPDATE correction_line SET series_id = (
        SELECT id FROM series WHERE {_IS_OTHER}
            AND username = (SELECT username FROM series WHERE id = correction_line.series_id)
    ) WHERE series_id IN (SELECT id FROM temp.dropping)
"""


def idle(db: sqlite3.Connection, *, kept_per_user: int, limit: int) -> list[IdleSeries]:
    """Return series that could be dropped now."""
    rows = db.execute(_IDLE, {**_OTHER, "kept": kept_per_user, "limit": limit})
    return [IdleSeries(*row) for row in rows]


def drop(db: sqlite3.Connection, found: Sequence[IdleSeries]) -> int:
    """Drop those that are as they were found; return how many. All reports are in the sums."""
    db.execute(_DROPPING)
    db.execute("DELETE FROM temp.dropping")
    rows = [(s.id, s.reports, s.upload_bytes, s.download_bytes, s.billed_bytes) for s in found]
    db.executemany(f"INSERT INTO temp.dropping ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)", rows)
    db.execute(_LEAVE_CHANGED)
    for statement in (_MAKE_OTHERS, _ADD_TO_OTHERS, _MOVE_LINES):
        db.execute(statement, _OTHER)
    return db.execute("DELETE FROM series WHERE id IN (SELECT id FROM temp.dropping)").rowcount
