"""The rows of corrections in the table of reports of a PostgreSQL ledger."""

from __future__ import annotations

from collections.abc import Sequence

from collector.ledger.corrections import SCOPE, Line
from collector.ledger.postgres.link import Db
from collector.ledger.postgres.sums.numbering import set_numbered
from collector.ledger.postgres.sums.partitions import move_all

_INSERT_REPORTS = """
    INSERT INTO report (group_id, position, report_key, series_id, upload_bytes, download_bytes,
        billed_bytes, connections, reported_at, reporter)
    SELECT %s, n.position, NULL, n.series_id, n.upload_bytes, n.download_bytes, n.billed_bytes,
        n.connections, n.reported_at, %s
    FROM unnest(%s::int[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::int[],
        %s::bigint[]) AS n (position, series_id, upload_bytes, download_bytes, billed_bytes,
            connections, reported_at)
"""


def append(
    db: Db,
    lines: Sequence[Line],
    *,
    group_id: int,
    after_seq: int,
    number: int,
    now_millis: int,
) -> None:
    """Store the lines of a correction as one group, numbered after a seq, and move all partitions.

    It runs within a transaction of the leader that also adds them up, after `settle`.
    """
    db.execute(
        "INSERT INTO report_group (id, reports, raw_bytes, billed_bytes, received_at, "
        "first_seq) VALUES (%s, %s, 0, 0, %s, %s)",
        (group_id, len(lines), now_millis, after_seq + 1),
    )
    db.execute(
        _INSERT_REPORTS,
        (
            *(group_id, f"{SCOPE}{number}", list(range(len(lines)))),
            [it.series_id for it in lines],
            [it.upload_bytes for it in lines],
            [it.download_bytes for it in lines],
            [it.billed_bytes for it in lines],
            [it.connections for it in lines],
            [it.reported_at for it in lines],
        ),
    )
    # The running sums exclude corrections, as the users' totals do.
    set_numbered(db, after_seq + len(lines))
    move_all(db, after_seq + len(lines))
