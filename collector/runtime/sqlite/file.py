"""One kind of SQLite file: made whole, verified, migrated, and its faults said in words.

The owner of a kind states its schema and what it is called; needs the standard library alone.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from collector.runtime.private_files import BESIDE_SQLITE, keep_private, make_private, put_in_place

BUSY_SECONDS = 10
_IOERR, _CORRUPT, _FULL, _NOT_A_DATABASE = 10, 11, 13, 26
_CODES = {
    _IOERR: "disk I/O error",
    _CORRUPT: "malformed",
    _FULL: "disk is full",
    _NOT_A_DATABASE: "not a database",
}
"""What tells an error of SQLite's where Python 3.10 shows no code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteKind:
    """What a file of one kind is called, who writes it, and its schema's history.

    Migration number n takes a file from `user_version` n - 1 to n: statements separated by `;`,
    then `steps[n]` where SQL cannot say it. All errors are `error`, with the path in them.
    """

    name: str
    """As in "the NAME PATH is in use"."""
    program: str
    """As in "has the PROGRAM run yet"."""
    setting: str
    """Where an operator says which file it is."""
    application_id: int
    migrations: Sequence[str]
    error: type[Exception]
    steps: Mapping[int, Callable[[sqlite3.Connection], None]] = field(default_factory=dict)
    before_empty: str = ""
    """What to do before a new file takes the place of a lost one, ending in ", and then "."""

    @property
    def version(self) -> int:
        """The schema that this program reads and writes."""
        return len(self.migrations)

    def damaged(self, path: Path, problem: str) -> Exception:
        """Return the error for a file that was read through and is not whole."""
        return self.error(
            f"the {self.name} {path} is damaged ({problem}): "
            f"{self.advice('move the file away yourself')}"
        )

    def advice(self, what_to_do: str) -> str:
        """Return the way out: a backup, or an empty file."""
        return (
            f"restore a backup; to begin with an empty {self.name}, {self.before_empty}{what_to_do}"
        )


def open_to_write(
    kind: SqliteKind,
    path: Path,
    *,
    configure: Callable[[sqlite3.Connection], None] = lambda _: None,
    complete: Callable[[sqlite3.Connection], None] = lambda _: None,
) -> sqlite3.Connection:
    """Open, verify and migrate a file; make one where there is none, whole and with `complete`.

    `configure` sets a connection's pragmas, before migrations. An existing file is never replaced.
    Raises the kind's error: damaged, foreign, newer, in use, or the disk refuses.
    """
    try:
        if not path.exists():
            _create(kind, path, complete)
        db = _open_existing(kind, path)
    except (sqlite3.Error, OSError) as error:
        raise kind.error(f"cannot open the {kind.name} {path}: {error}") from error
    with closed_on_fault(kind, path, db):
        verify(kind, db, path)
        keep_private(path, suffixes=BESIDE_SQLITE)
        # A copy made by VACUUM INTO comes without it, and readers would stop the writer.
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        configure(db)
        migrate(kind, db)
    return db


def open_to_read(kind: SqliteKind, path: Path) -> sqlite3.Connection:
    """Open and verify a file that is there, of this schema or an earlier one, to read alone."""
    try:
        if not path.exists():
            raise kind.error(f"there is no {kind.name} at {path}: has the {kind.program} run yet?")
        db = _open_existing(kind, path)
    except (sqlite3.Error, OSError) as error:
        raise kind.error(f"cannot open the {kind.name} {path}: {error}") from error
    with closed_on_fault(kind, path, db):
        verify(kind, db, path)
        db.execute("PRAGMA query_only = ON")
    return db


def open_in_place(path: Path) -> sqlite3.Connection:
    """Open a file for any thread; never make one where there is none, or none any more."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        isolation_level=None,
        timeout=BUSY_SECONDS,
        check_same_thread=False,
    )


def verify(kind: SqliteKind, db: sqlite3.Connection, path: Path) -> None:
    """Raise the kind's error for a file of another program or of a newer version."""
    if db.execute("PRAGMA application_id").fetchone()[0] != kind.application_id:
        raise kind.error(f"{path} is an SQLite file, but not a {kind.name}: see to {kind.setting}")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > kind.version:
        raise kind.error(
            f"{path} was written by a newer version (schema {version}, this version knows "
            f"{kind.version}): upgrade the {kind.program} or restore a backup"
        )


def check_whole(kind: SqliteKind, db: sqlite3.Connection, path: Path) -> None:
    """Read a file through; where it is damaged or cannot be read, close it and raise its error."""
    with closed_on_fault(kind, path, db):
        problem = damage_of(db)
        if problem is not None:
            raise kind.damaged(path, problem)


def damage_of(db: sqlite3.Connection) -> str | None:
    """Read a file through; return on one line what SQLite found first, or None if it is whole."""
    verdict = str(db.execute("PRAGMA quick_check(3)").fetchone()[0])
    return None if verdict == "ok" else " ".join(verdict.split())


def migrate(kind: SqliteKind, db: sqlite3.Connection) -> None:
    """Bring the schema forward, one committed step after the other; safe beside another process."""
    while db.execute("PRAGMA user_version").fetchone()[0] < kind.version:
        db.execute("BEGIN IMMEDIATE")
        try:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version < kind.version:
                _migrate_once(kind, db, version + 1)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


def _migrate_once(kind: SqliteKind, db: sqlite3.Connection, number: int) -> None:
    """Take one step within the transaction that is open; `executescript` would end it."""
    for statement in filter(str.strip, kind.migrations[number - 1].split(";")):
        db.execute(statement)
    if step := kind.steps.get(number):
        step(db)
    db.execute(f"PRAGMA user_version = {number}")


def fault(kind: SqliteKind, path: Path, error: sqlite3.Error) -> Exception:
    """Return what a fault that SQLite met in a file means, and what to do about it."""
    if is_disk_at_fault(error):
        return kind.error(
            f"the {kind.name} {path} cannot be used now ({error}): the disk is full or failing; "
            "make room or mend it, and start again"
        )
    if is_damaged(error):
        return kind.error(
            f"the {kind.name} {path} cannot be read ({error}): it is damaged, or none; "
            f"{kind.advice('move the file away yourself')}"
        )
    return kind.error(f"the {kind.name} {path} cannot be used now ({error}); try again")


def is_disk_full(error: sqlite3.Error) -> bool:
    """Tell whether there was no room to write."""
    return _is(error, _FULL)


def is_disk_at_fault(error: sqlite3.Error) -> bool:
    """Tell whether the disk refused, rather than the file being damaged."""
    return _is(error, _FULL) or _is(error, _IOERR)


def is_damaged(error: sqlite3.Error) -> bool:
    """Tell whether a file holds what SQLite never wrote; not so where it is only in use."""
    if _is(error, _CORRUPT) or _is(error, _NOT_A_DATABASE):
        return True
    is_about_use = isinstance(error, (sqlite3.OperationalError, sqlite3.ProgrammingError))
    return not is_about_use or "decode" in str(error)  # a text of which bytes were lost


def _is(error: sqlite3.Error, code: int) -> bool:
    shown: int | None = getattr(error, "sqlite_errorcode", None)
    return _CODES[code] in str(error) if shown is None else shown & 0xFF == code


def _open_existing(kind: SqliteKind, path: Path) -> sqlite3.Connection:
    if not path.stat().st_size:
        raise kind.error(
            f"the {kind.name} {path} is an empty file: {kind.advice('remove the file yourself')}"
        )
    return open_in_place(path)


@contextlib.contextmanager
def closed_on_fault(kind: SqliteKind, path: Path, db: sqlite3.Connection) -> Iterator[None]:
    """Close a connection that cannot be used, and make of SQLite's fault the kind's error."""
    try:
        yield
    except sqlite3.Error as error:
        db.close()
        raise fault(kind, path, error) from error
    except BaseException:
        db.close()
        raise


def _create(kind: SqliteKind, path: Path, complete: Callable[[sqlite3.Connection], None]) -> None:
    """Make an empty file beside its place, then put it there whole, unless one is there by then.

    So a crash at any moment leaves either no file or a whole one, and an empty file is damage.
    """
    remains = path.with_name(path.name + "-wal")
    if remains.exists():
        raise kind.error(
            f"{remains} is there, but its {kind.name} {path} is not: restore both from a backup; "
            f"to begin with an empty {kind.name}, {kind.before_empty}remove {remains.name} yourself"
        )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with draft_of(path, "new") as draft:
        with contextlib.closing(open_in_place(draft)) as db:
            db.execute(f"PRAGMA application_id = {kind.application_id}")
            db.execute("PRAGMA journal_mode = WAL")
            migrate(kind, db)
            complete(db)
        with contextlib.suppress(FileExistsError):
            put_in_place(draft, path)


@contextlib.contextmanager
def draft_of(path: Path, suffix: str) -> Iterator[Path]:
    """Give an empty private file beside a path; what is left of it at the end is removed."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.{suffix}")
    try:
        make_private(draft)
        yield draft
    finally:
        for each in BESIDE_SQLITE:
            draft.with_name(draft.name + each).unlink(missing_ok=True)
