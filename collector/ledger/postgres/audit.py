"""The audit and the size of a PostgreSQL ledger."""

from __future__ import annotations

from contextlib import suppress

from psycopg import errors as pg

from collector.ledger.corrections import Sums, disagreements
from collector.ledger.postgres.database import PostgresDatabase
from collector.ledger.postgres.link import SCHEMA, Db
from collector.ledger.sql.statistics import Compared
from collector.ledger.statistics_values import Audit

_RUNNING = """
    SELECT coalesce(sum(raw_bytes), 0), coalesce(sum(billed_bytes), 0), coalesce(sum(reports), 0)
    FROM sum_partition
"""


def size_bytes(db: Db) -> int:
    """Return the bytes of the tables; 0 for an engine that cannot tell."""
    query = (
        "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class AS c "
        "JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relkind = 'r'"
    )
    with suppress(pg.UndefinedFunction, pg.FeatureNotSupported), db.transaction():
        row = db.execute(query, (SCHEMA,)).fetchone()
        return 0 if row is None else int(row[0])
    return 0


def audit(db: Db) -> Audit:
    """Compare the sums of users, series, days and stored reports, from one snapshot."""
    compared = Compared(PostgresDatabase(db))
    running = Sums(*map(int, db.execute(_RUNNING).fetchone() or (0, 0, 0)))
    problems = disagreements(compared.counted, running, what="the running sum")
    return compared.audit([*problems, *_lost_rows(db)])


def _lost_rows(db: Db) -> list[str]:
    """Find reports and days without their series, and groups without their reports."""
    problems = []
    for what, query in (
        (
            "reports without a series",
            "SELECT count(*) FROM report AS r LEFT JOIN series AS s ON s.id = r.series_id "
            "WHERE s.id IS NULL",
        ),
        (
            "days without a series",
            "SELECT count(*) FROM usage_day AS d LEFT JOIN series AS s ON s.id = d.series_id "
            "WHERE s.id IS NULL",
        ),
        (
            "reports too many or too few in their groups",
            "SELECT coalesce(sum(abs(g.reports - g.purged - coalesce(r.kept, 0))), 0) "
            "FROM report_group AS g LEFT JOIN (SELECT group_id, count(*) AS kept FROM report "
            "GROUP BY group_id) AS r ON r.group_id = g.id",
        ),
    ):
        count = _number(db, query)
        if count:
            problems.append(f"{count} {what}")
    return problems


def _number(db: Db, query: str) -> int:
    row = db.execute(query).fetchone()
    return 0 if row is None else int(row[0])
