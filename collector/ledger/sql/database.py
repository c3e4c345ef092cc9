"""The port by which the statements of this folder run: one connection to a ledger.

A statement is SQL that SQLite and PostgreSQL execute alike, with parameters as `:name`:

- two integers are divided by `quotient`: `/` gives some engines a decimal;
- a sum of one user's amounts is `CAST(sum(…) AS bigint)`: PostgreSQL answers a decimal otherwise;
  one of many users' may be beyond 2^63, and is `Dialect.sum_of`;
- the larger of two is a `CASE`: it is `max` in one engine and `greatest` in the other;
- text is ordered by its bytes with BYTE_ORDER, independent of the database's collation;
- a value that may be None is `CAST(:name AS …)`, since PostgreSQL must know its type;
- a row is locked by an UPDATE, or an upsert, that leaves it as it is and returns it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)
Row = tuple[Any, ...]
Values = Mapping[str, object]

NO_VALUES: Values = {}
BILLED = "coalesce(r.billed_bytes, r.upload_bytes + r.download_bytes)"
"""The billed bytes of a report `r`."""
SUMS = ("upload_bytes", "download_bytes", "billed_bytes", "connections", "reports")
"""The sums that the rows of series and days have."""
USER_SUMS = tuple(each for each in SUMS if each != "connections")
BYTE_ORDER = "COLLATE BINARY"
NO_LIMIT = 2**62
"""For a LIMIT that takes all rows."""


class Dialect(NamedTuple):
    """The parts of statements that differ between the engines: tables of reports, large sums.

    The first five stand for a table with the columns seq, series_id, upload_bytes, download_bytes,
    billed_bytes, connections, reported_at, received_at and reporter; the next ones for a number.
    """

    reports: str
    """All stored reports; `seq` is NULL for a report without a number yet."""
    numbered: str
    """The reports within the parameters of `Database.bounds`."""
    unfolded: str
    """The reports that are not in the sums of users, series and days yet."""
    unfolded_of_senders: str
    """The reports that are not in the sums of senders yet."""
    since: str
    """The reports that arrived since `:since`; `:first_seq` is the first number of these."""
    folded_seq: str
    """Up to which report all are in the sums, which may have later ones as well."""
    first_seq: str
    """The lowest stored seq; NULL if there is none. Stored numbers have no gaps, but in files of
    the first version."""
    last_seq: str
    """The last assigned seq."""
    unnumbered_reports: str
    """How many reports have no number yet."""
    received_at: str
    """When the report `:seq`, or the next stored one, arrived."""
    oldest_received_at: str
    """When the oldest stored report arrived; NULL if there is none."""
    sum: str
    """The sum of the integer `{}`, of any size; `whole` decodes it. 0 for no rows."""
    joined: str
    """The texts `{}` of a group, in any order, with BETWEEN_REPORTS between them."""
    largest_first: str
    """Orders groups by their sums of upload_bytes and download_bytes."""

    def sum_of(self, column: str) -> str:
        """Return the SQL for the sum of an integer over many users, to be decoded with `whole`."""
        return self.sum.replace("{}", f"({column})")


class Database(Protocol):
    """One connection; every call is one statement, within the open transaction, if any.

    Raises the errors of the engine's driver.
    """

    @property
    def dialect(self) -> Dialect:
        """The engine's parts of statements."""
        ...

    def bounds(self, *, after: int, through: int) -> dict[str, object]:
        """Return the parameters of `Dialect.numbered`: reports after a seq, through another."""
        ...

    def rows(self, text: str, values: Values = NO_VALUES) -> list[Row]:
        """Run a statement, and return its rows."""
        ...

    def records(self, text: str, values: Values, shape: type[T]) -> list[T]:
        """Run a query whose columns are named as the fields of a struct; return its rows as those.

        For many rows: they are brought over together. The struct is `array_like`, of numbers, texts
        and None.
        """
        ...

    def change(self, text: str, values: Values = NO_VALUES) -> int:
        """Run a statement, and return how many rows it changed."""
        ...

    def insert_all(self, table: str, rows: Sequence[Values], *, then: str = "") -> None:
        """Insert rows in their order; each has a value for the same columns.

        `then` is what follows in the statement, such as an ON CONFLICT clause.
        """
        ...


def added(row: str, more: str, sums: Sequence[str] = SUMS) -> str:
    """Return the assignments that add the sums of `more` to those of `row`, for an UPDATE."""
    return ", ".join(f"{each} = {row}.{each} + {more}.{each}" for each in sums)


def quotient(amount: str, by: int) -> str:
    """Return the SQL for an integer divided by another, the remainder dropped.

    PostgreSQL and SQLite divide so by themselves; other engines answer a decimal (CockroachDB).
    """
    return f"CAST({amount} / {by} AS bigint)"


def later(row: str, more: str) -> str:
    """Return the assignment of the later time of last use."""
    mine, other = f"{row}.last_used_at", f"{more}.last_used_at"
    return f"last_used_at = CASE WHEN {other} > {mine} THEN {other} ELSE {mine} END"


def first_row(db: Database, text: str, values: Values = NO_VALUES) -> Row | None:
    """Return the first row of a query; None if it has none."""
    rows = db.rows(text, values)
    return rows[0] if rows else None


def one_row(db: Database, text: str, values: Values = NO_VALUES) -> Row:
    """Return the row of a query that always has one, such as a sum or a count."""
    (row,) = db.rows(text, values)
    return row


def whole(answered: object) -> int:
    """Decode the value of `Dialect.sum_of`."""
    high, _, low = str(answered).rpartition(":")
    return (int(high or 0) << 32) + int(low)


def folded_seq(db: Database) -> int:
    """Return the seq up to which reports are in the sums."""
    return int(one_row(db, f"SELECT {db.dialect.folded_seq}")[0] or 0)


def last_seq(db: Database) -> int:
    """Return the last assigned seq."""
    return int(one_row(db, f"SELECT {db.dialect.last_seq}")[0] or 0)


def kept_text(db: Database, key: str) -> str | None:
    """Return the text of a key in the table `meta`; None if there is none."""
    row = first_row(db, "SELECT value FROM meta WHERE key = :key", {"key": key})
    return None if row is None else str(row[0])


def keep_text(db: Database, key: str, value: str) -> None:
    """Store the text of a key in the table `meta`."""
    text = (
        "INSERT INTO meta (key, value) VALUES (:key, :value) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    )
    db.change(text, {"key": key, "value": value})


def locked_text(db: Database, key: str) -> str | None:
    """Return the text of a key, and lock its row until the end of the transaction.

    If there is no row, one without text is created; the caller stores its text.
    """
    text = (
        "INSERT INTO meta (key, value) VALUES (:key, '') "
        "ON CONFLICT (key) DO UPDATE SET value = meta.value RETURNING value"
    )
    return str(one_row(db, text, {"key": key})[0]) or None
