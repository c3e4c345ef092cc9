"""`traffic-collector import`: imports an earlier collector's table, or a CSV."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from collector.errors import ImportFileError, SettingsError
from collector.importing.files import open_rows
from collector.importing.run import Tell, compare, count_all, read_rows
from collector.importing.staging import Staging
from collector.importing.tally import ImportTally
from collector.ledger.backend import LedgerBackend
from collector.ledger.engines import backend_of
from collector.ledger.import_amounts import Grown
from collector.reports.report import DAY_MILLIS, Limits
from collector.reports.reporters import NAME
from collector.runtime.logs import printable
from collector.settings import Settings

console = Console()

DEFAULT_TABLE = "traffic_usage"
DEFAULT_ORIGIN = "original"
SHOWN_USERS = 5
SHOWN_REASONS = 20
_EPOCH = date(1970, 1, 1)


def add_import(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", metavar="FILE", help="SQLite or CSV; - is CSV on stdin")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--since", metavar="DAY", type=date.fromisoformat, help="from this day on, as 2026-11-01"
    )
    which.add_argument("--all", action="store_true", help="all days of the file (default)")
    parser.add_argument(
        "--toward-quota",
        action="store_true",
        help="bill it to quotas as if it were reported now; requires --since or --all",
    )
    parser.add_argument(
        "--origin",
        default=DEFAULT_ORIGIN,
        metavar="NAME",
        help="a name for this file's panel; what was imported is remembered under it",
    )
    parser.add_argument(
        "--table", default=DEFAULT_TABLE, metavar="NAME", help="its table, if SQLite"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be counted")


def import_file(arguments: argparse.Namespace, settings: Settings, *, now_millis: int) -> int:
    """Import a file and show how its bytes were counted; exit code 1 if they do not add up.

    Raises ImportFileError, LedgerInUseError, LedgerError or NotStoredError.
    """
    if not NAME.fullmatch(arguments.origin):
        raise SettingsError(f"--origin {arguments.origin!r}: expected 1 to 64 of A-Z a-z 0-9 . _ -")
    counts = arguments.toward_quota
    if counts and not arguments.all and arguments.since is None:
        raise SettingsError(
            "--toward-quota bills all of it to the current period of each quota; say from which "
            "day on: --since with the period's first day, or --all"
        )
    backend = backend_of(settings.ledger_url)
    limits = Limits(ceiling_bytes=settings.report_ceiling_bytes)
    since_day = None if arguments.since is None else (arguments.since - _EPOCH).days
    with (
        closing(Staging()) as staging,
        _progress() as tell,
        open_rows(arguments.file, table=arguments.table) as rows,
    ):
        tally = read_rows(
            rows,
            staging,
            origin=arguments.origin,
            since_day=since_day,
            now_millis=now_millis,
            limits=limits,
            tell=tell,
        )
        if not tally.rows:
            raise ImportFileError(f"{arguments.file} has no rows")
        grown = None
        if arguments.dry_run:
            compare(staging, backend, tally, counts_toward_quota=counts, tell=tell)
        else:
            grown = count_all(
                staging,
                backend,
                tally,
                origin=arguments.origin,
                counts_toward_quota=counts,
                now_millis=now_millis,
                tell=tell,
            )
    return _show(tally, backend, arguments, grown=grown)


@contextmanager
def _progress() -> Iterator[Tell]:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(
        *columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True
    ) as progress:
        tasks = {}

        def tell(what: str, done: int, of: int | None) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=of)
            progress.update(tasks[what], completed=done, total=of)

        yield tell


def _show(
    tally: ImportTally,
    backend: LedgerBackend,
    arguments: argparse.Namespace,
    *,
    grown: Grown | None,
) -> int:
    verb = "would be counted" if arguments.dry_run else "counted"
    table = Table(title=printable(f"{arguments.file} into {backend.name}"), title_justify="left")
    table.add_column("what")
    table.add_column("rows", justify="right")
    table.add_column("bytes", justify="right")
    refused = tally.refused_rows
    table.add_row("read", f"{tally.rows:,}", f"{tally.bytes_read:,}")
    table.add_row(f"{verb} (sums)", f"{tally.statements_counted:,}", f"{tally.bytes_counted:,}")
    table.add_row("of it toward quotas", "", f"{tally.bytes_billed:,}")
    table.add_row("counted by an import before", "", f"{tally.bytes_there:,}")
    table.add_row("of zero bytes", f"{tally.rows_of_nothing:,}", "0")
    if arguments.since is not None:
        older = f"before {arguments.since}"
        table.add_row(older, f"{tally.rows_too_old:,}", f"{tally.bytes_too_old:,}")
    for reason, rows in refused.most_common(SHOWN_REASONS):
        row = tally.first_refused.get(reason)
        where = "" if row is None else f" (first in row {row:,} after the header)"
        table.add_row(
            f"refused: {printable(reason)}{where}", f"{rows:,}", f"{tally.refused_bytes[reason]:,}"
        )
    console.print(table)
    if len(refused) > SHOWN_REASONS:
        print(f"and {len(refused) - SHOWN_REASONS} more reasons to refuse a row")
    if tally.days:
        days = f"Days {_day(tally.days[0])} to {_day(tally.days[1])}"
        print(f"{days}; {verb} for {len(tally.users)} users:")
    for username, amount_bytes in tally.users.most_common(SHOWN_USERS):
        print(f"  {printable(username)}: {amount_bytes:,} bytes {verb}")
    if tally.users and arguments.toward_quota:
        print("It is billed to their quotas as if it were reported now: see docs/import.md.")
    elif tally.users:
        print("It is stored and shown, and billed to no quota; --toward-quota bills it.")
    expected = Grown(tally.bytes_counted, tally.bytes_billed)
    if not tally.is_balanced or grown not in {None, expected}:
        print(
            f"The sums do NOT agree: {tally.bytes_read:,} bytes read, {expected} counted, the "
            f"ledger grew by {grown or '-'}. Please report this."
        )
        return 1
    print("The sums agree." + (" Nothing was changed." if arguments.dry_run else ""))
    return 0


def _day(number: int) -> str:
    return f"{datetime.fromtimestamp(number * DAY_MILLIS / 1000, tz=UTC):%Y-%m-%d}"
