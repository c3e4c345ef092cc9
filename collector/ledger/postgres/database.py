"""The PostgreSQL side of `sql.database`: dialect and statements."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache

from collector.ledger.grouped_reports import BETWEEN_REPORTS
from collector.ledger.postgres.link import Db
from collector.ledger.sql.database import BYTE_ORDER, NO_VALUES, Dialect, Row, T, Values

MOST_AHEAD_REPORTS = 300_000
"""At most so many reports are numbered and not added up yet: see sums/rounds.py."""
_REPORTS = """
    SELECT g.first_seq + r.position AS seq, r.series_id, r.upload_bytes, r.download_bytes,
        r.billed_bytes, r.connections, r.reported_at, g.received_at, r.reporter
    FROM report_group AS g JOIN report AS r ON r.group_id = g.id
"""
# The sums go up to the first report that is not added up in its partition; see sums/partitions.py.
_HEAD = """
    (SELECT coalesce((
        SELECT min(x.first_seq) - 1 FROM sum_partition AS p CROSS JOIN LATERAL (
            SELECT g.first_seq FROM report_group AS g WHERE g.part = p.part AND g.first_seq > p.seq
            ORDER BY g.first_seq LIMIT 1
        ) AS x
    ), (SELECT seq FROM numbering WHERE id = 1)))
"""
# As an array, which the planner takes for short; of a range it would expect a third of all groups.
_NOT_ADDED_UP = f"""
    ARRAY(SELECT x.first_seq FROM sum_partition AS p CROSS JOIN LATERAL (
        SELECT g.first_seq FROM report_group AS g WHERE g.part = p.part AND g.first_seq > p.seq
        ORDER BY g.first_seq LIMIT {MOST_AHEAD_REPORTS}
    ) AS x)
"""
# A report is numbered after it is stored: its group's first_seq + its position in the group.
DIALECT = Dialect(
    reports=f"({_REPORTS})",
    numbered=f"""({_REPORTS}
        WHERE g.first_seq >= :first_group_seq AND g.first_seq <= :through
            AND g.first_seq + r.position > :after AND g.first_seq + r.position <= :through)""",
    unfolded=f"({_REPORTS} WHERE g.first_seq IS NULL "
    f"UNION ALL {_REPORTS} WHERE g.first_seq = ANY({_NOT_ADDED_UP}))",
    unfolded_of_senders=f"({_REPORTS} WHERE g.first_seq IS NULL)",
    since=f"""({_REPORTS} WHERE g.received_at >= :since
        AND (g.first_seq >= :first_seq OR g.first_seq IS NULL))""",
    folded_seq=_HEAD,
    first_seq="(SELECT first_seq + purged FROM report_group WHERE first_seq IS NOT NULL "
    "ORDER BY first_seq LIMIT 1)",
    last_seq="(SELECT seq FROM numbering WHERE id = 1)",
    unnumbered_reports="(SELECT coalesce(sum(reports), 0) FROM report_group "
    "WHERE first_seq IS NULL)",
    received_at="(SELECT received_at FROM report_group WHERE first_seq <= :seq "
    "ORDER BY first_seq DESC LIMIT 1)",
    oldest_received_at="(SELECT min(received_at) FROM report_group)",
    sum="coalesce(sum({}), 0)",
    joined=f"string_agg({{}}, '{BETWEEN_REPORTS}')",
    largest_first="sum(upload_bytes) + sum(download_bytes) DESC",
)
_GROUP_OF = (
    "SELECT coalesce(max(first_seq), 0) FROM report_group WHERE first_seq <= %(after)s::bigint + 1"
)
_TOKEN = re.compile(
    r"""
    (?P<literal>'(?:[^']|'')*')|(?P<quoted>"[^"]*")|(?P<cast>::)|:(?P<name>[a-z_][a-z0-9_]*)
    |(?P<percent>%)|(?P<order>\bCOLLATE\ BINARY\b)
    """,
    re.VERBOSE,
)


INSERTED_ROWS = 10_000
"""The rows of one INSERT, so that its parameter has a few megabytes at most."""


@lru_cache(maxsize=1000)
def psycopg_text(text: str) -> str:
    """Translate a statement for psycopg: `:name` to `%(name)s`, byte order to collation "C".

    Literals, quoted names and casts are left as they are.
    """
    return _TOKEN.sub(_translated, text)


def _translated(found: re.Match[str]) -> str:
    if name := found["name"]:
        return f"%({name})s"
    if found["order"]:
        return BYTE_ORDER.replace("BINARY", '"C"')
    return found[0].replace("%", "%%")


def _as_json(value: object) -> str:
    """Spell bytes as PostgreSQL reads a bytea."""
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    raise TypeError(f"a value of type {type(value).__name__} cannot be inserted")


class PostgresDatabase:
    """Implements `Database` on a connection."""

    dialect = DIALECT

    def __init__(self, connection: Db) -> None:
        self._connection = connection

    def bounds(self, *, after: int, through: int) -> dict[str, object]:
        """Return the parameters for reports after a seq, up to and including another."""
        row = self._connection.execute(_GROUP_OF, {"after": after}).fetchone()
        return {"after": after, "through": through, "first_group_seq": row[0] if row else 0}

    def rows(self, text: str, values: Values = NO_VALUES) -> list[Row]:
        """Run a statement, and return its rows."""
        return self._connection.execute(psycopg_text(text), values).fetchall()

    def records(self, text: str, values: Values, shape: type[T]) -> list[T]:
        """Run a query, and return its rows as structs; the driver has them all by then."""
        return [shape(*row) for row in self.rows(text, values)]

    def change(self, text: str, values: Values = NO_VALUES) -> int:
        """Run a statement, and return how many rows it changed."""
        return self._connection.execute(psycopg_text(text), values).rowcount

    def insert_all(self, table: str, rows: Sequence[Values], *, then: str = "") -> None:
        """Insert rows in their order; each has a value for the same columns.

        One statement inserts INSERTED_ROWS of them, sent as JSON, which takes its types from the
        table. The driver's `executemany` would not do: it ends with a Flush, on which the server
        no longer ends a session that is idle in its transaction, so a frozen process keeps locks.
        """
        if not rows:
            return
        columns = ", ".join(rows[0])
        text = (
            f"INSERT INTO {table} ({columns}) SELECT {columns} "
            f"FROM json_populate_recordset(NULL::{table}, %s::json) {then}"
        )
        for start in range(0, len(rows), INSERTED_ROWS):
            page = rows[start : start + INSERTED_ROWS]
            self._connection.execute(text, (json.dumps(page, default=_as_json),))
