"""The SQLite side of `sql.database`: dialect and statements."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache

import msgspec

from collector.ledger.grouped_reports import BETWEEN_REPORTS
from collector.ledger.sql.database import NO_VALUES, Dialect, Row, T, Values

_FOLDED_SEQ = "(SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'folded_seq')"
# A sum above 2^63 is an error, so the upper and the lower halves are summed separately.
_LOW_HALF = 2**32 - 1
_HIGH = "(sum((upload_bytes) >> 32) + sum((download_bytes) >> 32))"
_LOW = f"(sum((upload_bytes) & {_LOW_HALF}) + sum((download_bytes) & {_LOW_HALF}))"
_UNFOLDED_OF_SENDERS = f"(SELECT * FROM report WHERE seq > {_FOLDED_SEQ})"
# Without those that are in the sums by the first parts of a fold, see `fold`.
_UNFOLDED = f"""(
    SELECT * FROM report WHERE seq > {_FOLDED_SEQ} AND NOT (
        seq <= coalesce(
            (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'fold_through_seq'), 0)
        AND (SELECT username FROM series WHERE id = report.series_id)
            <= (SELECT value FROM meta WHERE key = 'fold_through_user')
    )
)"""
# Reports are numbered when they are stored.
DIALECT = Dialect(
    reports="report",
    numbered="(SELECT * FROM report WHERE seq > :after AND seq <= :through)",
    unfolded=_UNFOLDED,
    unfolded_of_senders=_UNFOLDED_OF_SENDERS,
    since="(SELECT * FROM report WHERE seq >= :first_seq AND received_at >= :since)",
    folded_seq=_FOLDED_SEQ,
    first_seq="(SELECT min(seq) FROM report)",
    last_seq=f"coalesce((SELECT max(seq) FROM report), {_FOLDED_SEQ})",
    unnumbered_reports="0",
    received_at="(SELECT received_at FROM report WHERE seq >= :seq ORDER BY seq LIMIT 1)",
    oldest_received_at="(SELECT received_at FROM report ORDER BY seq LIMIT 1)",
    sum=f"printf('%d:%d', sum({{}} >> 32), sum({{}} & {_LOW_HALF}))",
    joined=f"group_concat({{}}, '{BETWEEN_REPORTS}')",
    largest_first=f"{_HIGH} + ({_LOW} >> 32) DESC, {_LOW} & {_LOW_HALF} DESC",
)


@lru_cache
def _decoder(shape: type[T]) -> msgspec.json.Decoder[list[T]]:
    return msgspec.json.Decoder(list[shape])  # type: ignore[valid-type]


class SqliteDatabase:
    """Implements `Database` on a connection."""

    dialect = DIALECT

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def bounds(self, *, after: int, through: int) -> dict[str, object]:
        """Return the parameters for reports after a seq, up to and including another."""
        return {"after": after, "through": through}

    def rows(self, text: str, values: Values = NO_VALUES) -> list[Row]:
        """Run a statement, and return its rows."""
        return self._connection.execute(text, values).fetchall()

    def records(self, text: str, values: Values, shape: type[T]) -> list[T]:
        """Run a query, and return its rows as structs.

        SQLite answers them in one row: the driver gives up Python's lock for each row that it
        fetches, and waits to have it again while other threads work.
        """
        columns = ", ".join(shape.__struct_fields__)
        (rows,) = self._connection.execute(
            f"SELECT json_group_array(json_array({columns})) FROM ({text})", values
        ).fetchone()
        return _decoder(shape).decode(rows)

    def change(self, text: str, values: Values = NO_VALUES) -> int:
        """Run a statement, and return how many rows it changed."""
        return self._connection.execute(text, values).rowcount

    def insert_all(self, table: str, rows: Sequence[Values], *, then: str = "") -> None:
        """Insert rows in their order; each has a value for the same columns."""
        if rows:
            columns, marks = ", ".join(rows[0]), ", ".join(f":{name}" for name in rows[0])
            self._connection.executemany(
                f"INSERT INTO {table} ({columns}) VALUES ({marks}) {then}", rows
            )
