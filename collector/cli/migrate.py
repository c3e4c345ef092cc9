"""`traffic-collector migrate-ledger`: moves an embedded ledger to a PostgreSQL database."""

from __future__ import annotations

import argparse
import sys
import time

from rich.console import Console
from rich.table import Table

from collector.errors import SettingsError
from collector.ledger.engines import backend_of, file_of
from collector.ledger.url import is_postgres
from collector.settings import Settings

console = Console()

PROGRESS_SECONDS = 5.0


def add_migration(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--from", dest="source", metavar="URL", help="sqlite:///…; default: LEDGER_URL"
    )
    parser.add_argument(
        "--to",
        dest="target",
        metavar="URL",
        help="postgresql://…; default: LEDGER_URL, which keeps the password out of `ps`",
    )
    parser.add_argument(
        "--restart", action="store_true", help="drop what an interrupted move has copied"
    )


def migrate_ledger(arguments: argparse.Namespace, settings: Settings) -> int:
    """Move a ledger, and show the rows and bytes that were copied and compared.

    Raises LedgerInUseError while a collector runs on the file, LedgerError and NotStoredError.
    """
    source = arguments.source or settings.ledger_url
    target = arguments.target or settings.ledger_url
    path = file_of(source, instead="--from takes an embedded ledger, sqlite:///…")
    if not is_postgres(target):
        raise SettingsError("--to, or LEDGER_URL, must name the database: postgresql://…")
    backend = backend_of(target)
    from collector.ledger.migration.run import Migration  # noqa: PLC0415 - its driver may be missing

    told_at = time.monotonic()

    def tell(what: str, done: int, of: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= PROGRESS_SECONDS:
            told_at = time.monotonic()
            print(f"{what}: {done:,} of {of:,} rows", file=sys.stderr)

    started_at = time.monotonic()
    moved = Migration(path, target, tell=tell).run(restarts=arguments.restart)
    table = Table(title=f"{path} to {backend.name}", title_justify="left")
    table.add_column("table")
    table.add_column("rows, the same on both sides", justify="right")
    for name, rows in moved.rows.items():
        table.add_row(name, f"{rows:,}")
    console.print(table)
    print(f"{moved.reports:,} reports of {moved.users:,} users: {moved.raw_bytes:,} bytes,")
    took_seconds = time.monotonic() - started_at
    print(f"{moved.billed_bytes:,} billed. Moved and compared in {took_seconds:.1f} s.")
    print(
        f"Now set LEDGER_URL to {backend.name} (with its password), start the collectors, and keep"
    )
    print(f"{path} as a backup only: reports that it stores from now on are not in PostgreSQL.")
    return 0
