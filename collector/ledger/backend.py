"""Where a ledger is kept, and all that is done to it from outside of a running collector.

`LEDGER_URL` says which kind it is: the embedded file, which one collector has, or a PostgreSQL
database, which any number share.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import urlsplit

from collector.errors import SettingsError
from collector.ledger.corrections import Wanted
from collector.ledger.ports import Ledger, LedgerReader, SharedLedger, SharedReader
from collector.ledger.readers import ReaderPosition
from collector.reports.billing import Ratio
from collector.reports.reporters import Configured

POSTGRES_SCHEMES = ("postgresql", "postgres")


class LedgerBackend(Protocol):
    """One ledger. Raises LedgerError where it cannot be used, or a call names what is not there."""

    @property
    def name(self) -> str:
        """Where it is, for people; without secrets."""
        ...

    @property
    def is_shared(self) -> bool:
        """Whether other collectors may write it beside this one; a `SharedBackend` then."""
        ...

    def prepare(self) -> None:
        """Make it where there is none, bring it forward, and see that it can be used."""
        ...

    def open(self) -> Ledger:
        """Open the writing side."""
        ...

    def reader(self) -> LedgerReader:
        """Open the reading side."""
        ...

    def remembers_imports(self) -> bool:
        """Whether there is a ledger that knows of imports and ratios: an old file does not yet."""
        ...

    def identity(self) -> object:
        """Return what is not the same any more when it is removed or replaced while in use."""
        ...

    def free_disk_bytes(self) -> int | None:
        """Return what is free on its disk; None where that is somebody else's. Raises OSError."""
        ...

    def add_reporter(
        self,
        name: str,
        *,
        now_millis: int,
        counts_toward_quota: bool | None = None,
        key: str | None = None,
    ) -> str:
        """Store a new reporter and return its key, which cannot be read back later.

        It is a new one unless it is given.
        """
        ...

    def note_configured(self, configured: Sequence[Configured]) -> None:
        """Note which keys the environment of a collector has, so that they are listed."""
        ...

    def revoke_configured(self, name: str, *, now_millis: int) -> bool:
        """Make the environment's key of a name invalid; return whether there was a valid one."""
        ...

    def change_reporter(self, name: str, *, counts_toward_quota: bool) -> None:
        """Say whether what a reporter reports from now on is billed."""
        ...

    def rotate_reporter(self, name: str, *, now_millis: int, grace_millis: int) -> str:
        """Give a reporter another key and return it; the one before is valid for the grace too.

        The name stays, and so do the ids it has reported: what is sent again counts once.
        """
        ...

    def revoke_reporter(self, name: str, *, now_millis: int) -> None:
        """Make a reporter's key invalid."""
        ...

    def set_ratio(self, ratio: Ratio) -> int | None:
        """Store how much a byte on a server counts from now on; return the ratio before, if any."""
        ...

    def clear_ratio(self, server: str) -> None:
        """Have a byte on a server count as a byte again."""
        ...

    def ask_correction(self, wanted: Wanted, *, asked_at_millis: int) -> int:
        """Store that a correction is wanted, beside running collectors too; return its number.

        Whoever writes the ledger carries it out, see `Ledger.correct`.
        """
        ...

    def rewind_exports(self) -> None:
        """Begin all exports anew, beside running collectors or without one."""
        ...

    def reader_positions(self) -> dict[str, ReaderPosition]:
        """Return the positions of all readers that ever reported one, by reader."""
        ...

    def reader_position(self, reader: str) -> ReaderPosition | None:
        """Return the position that a reader reported last; None for an unknown reader."""
        ...

    def report_position(self, reader: str, position: ReaderPosition) -> ReaderPosition:
        """Store a reader's position, never less than before; return what is stored."""
        ...


class EmbeddedBackend(LedgerBackend, Protocol):
    """A ledger that one collector has to itself."""

    @property
    def is_shared(self) -> Literal[False]:
        """No other collector may write it."""
        ...


class SharedBackend(LedgerBackend, Protocol):
    """A ledger that several collectors write."""

    @property
    def is_shared(self) -> Literal[True]:
        """Other collectors may write it beside this one."""
        ...

    def open(self) -> SharedLedger:
        """Open the writing side."""
        ...

    def reader(self) -> SharedReader:
        """Open the reading side."""
        ...


def is_postgres(url: str) -> bool:
    """Tell whether a URL names a PostgreSQL database."""
    return urlsplit(url).scheme in POSTGRES_SCHEMES


def backend_of(url: str) -> EmbeddedBackend | SharedBackend:
    """Return the ledger that a URL names; SettingsError for a URL that names none."""
    if not is_postgres(url):
        from collector.ledger.sqlite.backend import SqliteBackend  # noqa: PLC0415 - one kind is loaded

        return SqliteBackend(url)
    if find_spec("psycopg") is None or find_spec("psycopg_pool") is None:
        raise SettingsError(
            "LEDGER_URL names a PostgreSQL ledger, and its driver is not installed: "
            "pip install 'marzban-external-traffic[postgres]' (a checkout: uv sync --extra "
            "postgres); the Docker image has it"
        )
    from collector.ledger.postgres.backend import PostgresBackend  # noqa: PLC0415 - 10 MB that a file saves

    return PostgresBackend(url)


def file_of(url: str, *, instead: str) -> Path:
    """Return the file of an embedded ledger, for what only such a one can do.

    Raises SettingsError that says what to do instead.
    """
    if is_postgres(url):
        raise SettingsError(f"LEDGER_URL names a PostgreSQL ledger: {instead}")
    from collector.ledger.sqlite.file import ledger_path  # noqa: PLC0415 - one kind is loaded

    return ledger_path(url)
