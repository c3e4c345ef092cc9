"""Opens the ledger that LEDGER_URL names; only its engine is loaded."""

from __future__ import annotations

from pathlib import Path

from collector.errors import SettingsError
from collector.ledger.backend import EmbeddedBackend, SharedBackend
from collector.ledger.url import demand_driver, is_postgres, ledger_path


def backend_of(url: str) -> EmbeddedBackend | SharedBackend:
    """Return the ledger of a URL; SettingsError for an unsupported or malformed URL."""
    if not is_postgres(url):
        from collector.ledger.sqlite.backend import SqliteBackend  # noqa: PLC0415 - one kind is loaded

        return SqliteBackend(url)
    demand_driver()
    from collector.ledger.postgres.backend import PostgresBackend  # noqa: PLC0415 - 10 MB that a file saves

    return PostgresBackend(url)


def file_of(url: str, *, instead: str) -> Path:
    """Return the file of an embedded ledger, for operations that only it supports.

    Raises SettingsError for a shared one; its message ends with `instead`.
    """
    if is_postgres(url):
        raise SettingsError(f"LEDGER_URL names a PostgreSQL ledger: {instead}")
    return ledger_path(url)
