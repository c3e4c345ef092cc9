"""Files to import: an SQLite table, opened read-only, or a CSV."""

from __future__ import annotations

import contextlib
import csv
import io
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import quote

from collector.errors import ImportFileError
from collector.importing.rows import Layout, layout_of

SQLITE_HEADER = b"SQLite format 3\0"


class Rows(Protocol):
    """The rows of a file; `done` of `expected` steps are read so far."""

    layout: Layout
    expected: int | None
    done: int

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """Yield the rows; ImportFileError if a row cannot be read."""
        ...


@contextlib.contextmanager
def open_rows(file: str, *, table: str) -> Iterator[Rows]:
    """Open a file to import; `-` is CSV on standard input.

    Raises ImportFileError when it cannot be read, has no such table, or lacks a required column.
    """
    if file == "-":
        yield _CsvRows(sys.stdin.buffer, "standard input", size_bytes=None)
        return
    path = Path(file)
    try:
        with path.open("rb") as opened:
            head = opened.read(len(SQLITE_HEADER))
            if head == SQLITE_HEADER:
                with contextlib.closing(_connect(path)) as db:
                    yield _TableRows(db, path, table)
                return
            if not head:
                raise ImportFileError(f"{path} is empty")
            opened.seek(0)
            yield _CsvRows(opened, str(path), size_bytes=path.stat().st_size)
    except OSError as error:
        raise ImportFileError(f"{path} cannot be read: {error.strerror}") from error


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)
    db.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    return db


class _TableRows:
    """The rows of one table, from one snapshot."""

    def __init__(self, db: sqlite3.Connection, path: Path, table: str) -> None:
        self._db, self._path = db, path
        self._quoted = '"' + table.replace('"', '""') + '"'
        self.done = 0
        try:
            query = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
            names = [row[0] for row in db.execute(query) if not row[0].startswith("sqlite_")]
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({self._quoted})")]
            if not columns:
                others = ", ".join(names[:20]) or "nothing"
                raise ImportFileError(
                    f"{path} has no table {table}: it has {others}; name another with --table"
                )
            self.layout = _complete(layout_of(columns), f"the table {table} of {path}")
            self.expected: int | None = db.execute(
                f"SELECT count(*) FROM {self._quoted}"  # noqa: S608 - quoted above
            ).fetchone()[0]
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        try:
            rows = self._db.execute(f"SELECT * FROM {self._quoted}")  # noqa: S608 - quoted above
            names = [each[0] for each in rows.description]
            for row in rows:
                self.done += 1
                yield dict(zip(names, row, strict=True))
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: sqlite3.Error) -> ImportFileError:
        return ImportFileError(
            f"{self._path} cannot be read: {error}; if its panel is running, copy it together with "
            "its -wal file and import the copy"
        )


class _CsvRows:
    """The rows of a CSV with a header line, whose delimiter (comma or semicolon) is detected."""

    def __init__(self, opened: IO[bytes], name: str, *, size_bytes: int | None) -> None:
        self._opened, self._name = opened, name
        self.expected = size_bytes
        self.done = 0
        self._text = io.TextIOWrapper(
            opened, encoding="utf-8-sig", errors="surrogateescape", newline=""
        )
        first = self._text.readline()
        delimiter = ";" if first.count(";") > first.count(",") else ","
        self._names = next(csv.reader([first], delimiter=delimiter), [])
        self._rows = csv.reader(self._text, delimiter=delimiter)
        self.layout = _complete(layout_of(self._names), f"the first line of {name}")

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        try:
            for row in self._rows:
                if self.expected is not None:
                    self.done = self._opened.tell()
                if row:
                    yield dict(zip(self._names, row, strict=False))
        except (csv.Error, OSError) as error:
            line = self._rows.line_num + 1
            raise ImportFileError(f"{self._name}, line {line}: {error}") from error


def _complete(layout: Layout, where: str) -> Layout:
    if layout.missing:
        raise ImportFileError(f"{where} has no column {'; nor '.join(layout.missing)}")
    return layout
