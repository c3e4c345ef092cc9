"""What the texts of this folder run on: one connection to a ledger, of either engine.

A text is SQL that SQLite and PostgreSQL read alike, with values as `:name`:

- `/` divides two integers, and drops the remainder;
- a sum of one user's amounts is `CAST(sum(…) AS bigint)`: PostgreSQL answers a decimal otherwise;
  one of many users' may be beyond 2^63, and is `Dialect.sum_of`;
- the larger of two is a `CASE`: it is `max` in one engine and `greatest` in the other;
- text is ordered by its bytes with BYTE_ORDER, whatever the collation of a database;
- a value that may be None is `CAST(:name AS …)`, since PostgreSQL must know its type;
- a row is locked by an UPDATE, or an upsert, that leaves it as it is and returns it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

Row = tuple[Any, ...]
Values = Mapping[str, object]

NO_VALUES: Values = {}
BYTE_ORDER = "COLLATE BINARY"
NO_LIMIT = 2**62
"""For a LIMIT that takes all rows."""


class Dialect(NamedTuple):
    """What a text has in the places where the engines differ: their tables of reports, large sums.

    The first four stand for a table with the columns seq, series_id, upload_bytes, download_bytes,
    billed_bytes, connections, reported_at, received_at and reporter; the next ones for a number.
    """

    reports: str
    """All that are kept; `seq` is NULL where a report has no number yet."""
    numbered: str
    """Those within the values of `Database.bounds`."""
    unfolded: str
    """Those that are in no sum yet."""
    since: str
    """Those that came at or after `:since`, of which `:first_seq` is the first number."""
    folded_seq: str
    """Up to which report the sums go."""
    first_seq: str
    """The first report that is kept and has a number; NULL when there is none. Kept numbers have
    no gaps, but in files of the first version."""
    last_seq: str
    """The last number that was given out."""
    unnumbered_reports: str
    """How many reports have no number yet."""
    received_at: str
    """When the report with the number `:seq` came, or the next one that is kept."""
    oldest_received_at: str
    """When the first report that is kept came; NULL when there is none."""
    sum: str
    """The sum of an integer, put in for `{}`, however large; `whole` reads it. 0 of no rows."""
    largest_first: str
    """Orders groups by their sums of upload_bytes and download_bytes."""

    def sum_of(self, column: str) -> str:
        """Return the text for the sum of an integer over many users, to be read with `whole`."""
        return self.sum.replace("{}", f"({column})")


class Database(Protocol):
    """One connection; every call is one statement, within the transaction there is, if any.

    What goes wrong raises as the engine's driver does.
    """

    @property
    def dialect(self) -> Dialect:
        """What is to be put into a text."""
        ...

    def bounds(self, *, after: int, through: int) -> dict[str, object]:
        """Return the values for `Dialect.numbered`: reports after a number and up to another."""
        ...

    def rows(self, text: str, values: Values = NO_VALUES) -> list[Row]:
        """Run a text, and return its rows."""
        ...

    def change(self, text: str, values: Values = NO_VALUES) -> int:
        """Run a text, and return how many rows it changed."""
        ...

    def change_each(self, text: str, values: Sequence[Values]) -> None:
        """Run a text once with each of the values."""
        ...


def first_row(db: Database, text: str, values: Values = NO_VALUES) -> Row | None:
    """Return the first row of a text; None when it has none."""
    rows = db.rows(text, values)
    return rows[0] if rows else None


def one_row(db: Database, text: str, values: Values = NO_VALUES) -> Row:
    """Return the row of a text that always has one, as a sum or a count has."""
    (row,) = db.rows(text, values)
    return row


def whole(answered: object) -> int:
    """Return the sum that a query with `Dialect.sum_of` answered."""
    high, _, low = str(answered).rpartition(":")
    return (int(high or 0) << 32) + int(low)


def folded_seq(db: Database) -> int:
    """Return up to which report the sums go."""
    return int(one_row(db, f"SELECT {db.dialect.folded_seq}")[0] or 0)


def last_seq(db: Database) -> int:
    """Return the last number that was given to a report."""
    return int(one_row(db, f"SELECT {db.dialect.last_seq}")[0] or 0)


def kept_text(db: Database, key: str) -> str | None:
    """Return what is kept under a name in the ledger's small things; None for nothing."""
    row = first_row(db, "SELECT value FROM meta WHERE key = :key", {"key": key})
    return None if row is None else str(row[0])


def keep_text(db: Database, key: str, value: str) -> None:
    """Keep a text under a name."""
    text = (
        "INSERT INTO meta (key, value) VALUES (:key, :value) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    )
    db.change(text, {"key": key, "value": value})


def locked_text(db: Database, key: str) -> str | None:
    """Return what is kept under a name, and have others wait who ask for it so; in a transaction.

    A row without text is made where there is none: the caller stores its text.
    """
    text = (
        "INSERT INTO meta (key, value) VALUES (:key, '') "
        "ON CONFLICT (key) DO UPDATE SET value = meta.value RETURNING value"
    )
    return str(one_row(db, text, {"key": key})[0]) or None
