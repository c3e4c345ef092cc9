"""Drops unused series; see `IdleSeries`."""

from __future__ import annotations

from collections.abc import Sequence

from collector.ledger.sql.database import Database, added, later
from collector.ledger.statistics_values import IdleSeries
from collector.reports.server_bounds import OTHER_PORT, OTHER_PROTOCOL, OTHER_SERVER

SERIES_PER_STATEMENT = 500
_DROPPED = f"({', '.join(f':id_{number}' for number in range(SERIES_PER_STATEMENT))})"
_COLUMNS = "id, reports, upload_bytes, download_bytes, billed_bytes"
_OTHER = {"server": OTHER_SERVER, "port": OTHER_PORT, "protocol": OTHER_PROTOCOL}
_IS_OTHER = "server = :server AND port = :port AND protocol = :protocol"
_IN_USE = "(reports <> 0 OR upload_bytes <> 0 OR download_bytes <> 0 OR billed_bytes <> 0)"
_IDLE = f"""
    SELECT {_COLUMNS} FROM (
        SELECT *, {_IN_USE} AS is_in_use, row_number() OVER (
            PARTITION BY username, {_IN_USE} ORDER BY last_used_at DESC, id DESC
        ) AS place
        FROM series WHERE NOT ({_IS_OTHER}) AND id IN (
            SELECT id FROM series EXCEPT SELECT series_id FROM usage_day
            EXCEPT SELECT series_id FROM report
        )
    ) AS candidates WHERE NOT is_in_use OR place > :kept LIMIT :limit
"""
_MAKE_OTHERS = f"""
    INSERT INTO series (username, server, port, protocol)
    SELECT DISTINCT username, :server, CAST(:port AS int), :protocol FROM series AS s
    WHERE id IN {_DROPPED} AND ({_IN_USE}
        OR EXISTS (SELECT 1 FROM correction_line AS l WHERE l.series_id = s.id))
    ON CONFLICT (username, server, port, protocol) DO NOTHING
"""
_ADD_TO_OTHERS = f"""
    UPDATE series SET {added("series", "f")}, {later("series", "f")}
    FROM (
        SELECT username, CAST(sum(upload_bytes) AS bigint) AS upload_bytes,
            CAST(sum(download_bytes) AS bigint) AS download_bytes,
            CAST(sum(billed_bytes) AS bigint) AS billed_bytes,
            CAST(sum(connections) AS bigint) AS connections,
            CAST(sum(reports) AS bigint) AS reports, max(last_used_at) AS last_used_at
        FROM series WHERE id IN {_DROPPED} GROUP BY username
    ) AS f WHERE series.username = f.username AND {_IS_OTHER}
"""
_MOVE_LINES = f"""
    UPDATE correction_line SET series_id = (
        SELECT id FROM series WHERE {_IS_OTHER}
            AND username = (SELECT username FROM series WHERE id = correction_line.series_id)
    ) WHERE series_id IN {_DROPPED}
"""


def idle(db: Database, *, kept_per_user: int, limit: int) -> list[IdleSeries]:
    """Return series that could be dropped now."""
    rows = db.rows(_IDLE, {**_OTHER, "kept": kept_per_user, "limit": limit})
    return [IdleSeries(*row) for row in rows]


def drop(db: Database, found: Sequence[IdleSeries]) -> int:
    """Drop those series that have not changed since; return how many. Within a transaction.

    Series of reports that are not added up yet are kept; no report may be stored meanwhile.
    """
    dropped = 0
    for start in range(0, len(found), SERIES_PER_STATEMENT):
        dropped += _drop_some(db, found[start : start + SERIES_PER_STATEMENT])
    return dropped


def _drop_some(db: Database, found: Sequence[IdleSeries]) -> int:
    unfolded = f"SELECT series_id FROM {db.dialect.unfolded} AS r"
    rows = db.rows(
        f"SELECT {_COLUMNS} FROM series WHERE id IN {_DROPPED} AND id NOT IN ({unfolded})",
        _ids(found),
    )
    known = set(found)
    unchanged = [each for row in rows if (each := IdleSeries(*row)) in known]
    if not unchanged:
        return 0
    values = {**_OTHER, **_ids(unchanged)}
    for statement in (_MAKE_OTHERS, _ADD_TO_OTHERS, _MOVE_LINES):
        db.change(statement, values)
    return db.change(f"DELETE FROM series WHERE id IN {_DROPPED}", values)


def _ids(series: Sequence[IdleSeries]) -> dict[str, object]:
    """Return the parameters of _DROPPED; no series has the id 0."""
    ids = [each.id for each in series]
    ids += [0] * (SERIES_PER_STATEMENT - len(ids))
    return {f"id_{number}": each for number, each in enumerate(ids)}
