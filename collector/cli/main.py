"""`traffic-collector`: the command line."""

from __future__ import annotations

import argparse
import contextlib
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from collector import __version__
from collector.app import create_app, server_of
from collector.cli.corrections import add_adjust, add_void, adjust, corrections_list, void
from collector.cli.import_ import add_import, import_file
from collector.cli.influx import bootstrap, export_rebuild, export_status
from collector.cli.migrate import add_migration, migrate_ledger
from collector.cli.ratios import ratios_clear, ratios_list, ratios_set
from collector.cli.reporters import add_reporters
from collector.cli.sources import show_sources
from collector.errors import CollectorError, LedgerUnavailableError
from collector.known_names import NAMES
from collector.ledger.backend import EmbeddedBackend, LedgerBackend, SharedBackend
from collector.ledger.engines import backend_of, file_of
from collector.ledger.ports import EmbeddedLedger
from collector.ledger.sqlite.backup import back_up
from collector.ledger.sqlite.file import LEDGER
from collector.ledger.statistics_values import Audit, Facts
from collector.ledger.url import ledger_path
from collector.runtime.cli import (
    add_completion,
    add_json,
    commands_of,
    completion_of,
    print_json,
    program,
    run_command,
)
from collector.runtime.config.dotenv_file import read_environment
from collector.runtime.listening import listen
from collector.runtime.sqlite.file import fault
from collector.runtime.wall_clock import wall_clock_millis
from collector.settings import Settings
from collector.sources.file import load_sources

console = Console()
PROGRESS_SECONDS = 5.0
PATIENCE_SECONDS = 60.0
BACK_UP_BY_PG_DUMP = (
    "back it up with PostgreSQL's own tools, `pg_dump --format=custom --schema=traffic`, or the "
    "server's point-in-time recovery: docs/scale.md"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an error is printed on one line."""
    arguments = _parser().parse_args(argv)
    if (code := completion_of(arguments)) is not None:
        return code
    run: Callable[[argparse.Namespace, Settings], int] = arguments.run
    settings: Settings | None = None

    def command() -> int:
        nonlocal settings
        settings = Settings.from_env(read_environment(NAMES))
        return run(arguments, settings)

    def explain(error: sqlite3.Error) -> str:
        if settings is None or not settings.ledger_url.startswith("sqlite:"):
            return f"a file cannot be read: {error}"
        return str(fault(LEDGER, ledger_path(settings.ledger_url), error))

    return run_command(command, errors=(CollectorError,), explain=explain)


def _parser() -> argparse.ArgumentParser:
    parser = program(
        "traffic-collector",
        description="Accepts traffic reports and keeps exact, durable totals.",
        version=__version__,
        examples=(
            "reporters add de-1   a key for a server or panel",
            "reporters list       who reports, and who is refused",
            "check --json         the ledger's sums, for scripts",
            "ratios set de-1 2    a byte there counts as two",
            "backup /safe/ledger  a copy, beside the running collector",
        ),
    )
    commands = commands_of(parser)
    serve = commands.add_parser("serve", help="accept reports until stopped")
    serve.set_defaults(run=_serve)
    check = commands.add_parser("check", help="check the ledger's integrity and its sums")
    add_json(check)
    check.set_defaults(run=_check)
    backup = commands.add_parser("backup", help="copy the ledger while it is in use, and verify it")
    backup.add_argument("file", type=Path, metavar="FILE", help="must not exist yet")
    backup.set_defaults(run=_back_up)
    prepare = commands.add_parser(
        "bootstrap", help="create or update InfluxDB's buckets, and a token for each program"
    )
    prepare.add_argument(
        "--tokens",
        type=Path,
        metavar="DIR",
        help="write a least-privilege token for collector, bridge and grafana to files here",
    )
    prepare.set_defaults(run=lambda it, settings: bootstrap(settings, tokens=it.tokens))
    export = commands.add_parser("export", help="the export of the ledger to InfluxDB")
    exports = export.add_subparsers(dest="action", required=True, metavar="ACTION")
    status = exports.add_parser("status", help="its position, its lag, and its last error")
    add_json(status)
    status.set_defaults(run=lambda it, settings: export_status(settings, as_json=it.json))
    rebuild = exports.add_parser(
        "rebuild", help="export everything the ledger keeps again, to an empty InfluxDB"
    )
    rebuild.set_defaults(run=lambda _, settings: export_rebuild(settings))
    take_over = commands.add_parser(
        "import",
        help="import an earlier collector's table, or a CSV; stop the collector of a ledger file "
        "first",
    )
    add_import(take_over)
    take_over.set_defaults(
        run=lambda it, settings: import_file(it, settings, now_millis=wall_clock_millis())
    )
    move = commands.add_parser(
        "migrate-ledger", help="move an embedded ledger to PostgreSQL; stop the collector first"
    )
    add_migration(move)
    move.set_defaults(run=migrate_ledger)
    sources = commands.add_parser(
        "sources", help="show the sources file: other panels, their servers and users"
    )
    sources.set_defaults(run=lambda _, settings: show_sources(settings))
    add_reporters(commands.add_parser("reporters", help="who may report"))
    _add_correction_commands(commands)
    _add_ratio_commands(commands.add_parser("ratios", help="billing ratios of servers"))
    add_completion(commands, parser)
    return parser


def _add_correction_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    voiding = commands.add_parser(
        "void", help="subtract stored reports from all sums; a dry run without --yes"
    )
    add_void(voiding)
    voiding.set_defaults(
        run=lambda it, settings: void(it, settings, now_millis=wall_clock_millis())
    )
    adjusting = commands.add_parser(
        "adjust", help="add bytes to a user's sums, or subtract them; a dry run without --yes"
    )
    add_adjust(adjusting)
    adjusting.set_defaults(
        run=lambda it, settings: adjust(it, settings, now_millis=wall_clock_millis())
    )
    corrected = commands.add_parser(
        "corrections", help="list voids and adjustments, with who asked for them"
    )
    add_json(corrected)
    corrected.set_defaults(run=lambda it, settings: corrections_list(settings, as_json=it.json))


def _add_ratio_commands(ratios: argparse.ArgumentParser) -> None:
    actions = ratios.add_subparsers(dest="action", required=True, metavar="ACTION")
    setting = actions.add_parser("set", help="set a server's ratio; in force within a second")
    setting.add_argument("server", help="as reports name it")
    setting.add_argument("ratio", help="billed bytes per byte, such as 2 or 0.5; 0 bills nothing")
    setting.set_defaults(
        run=lambda it, settings: ratios_set(
            settings, it.server, it.ratio, now_millis=wall_clock_millis()
        )
    )
    clear = actions.add_parser("clear", help="set a server's ratio back to 1")
    clear.add_argument("server")
    clear.set_defaults(run=lambda it, settings: ratios_clear(settings, it.server))
    listing = actions.add_parser("list", help="list servers with their ratio, raw and billed bytes")
    add_json(listing)
    listing.set_defaults(run=lambda it, settings: ratios_list(settings, as_json=it.json))


def _serve(_: argparse.Namespace, settings: Settings) -> int:
    backend = backend_of(settings.ledger_url)
    load_sources(settings.sources_file)  # a mistake in it is a one-line error, not a traceback
    damage: list[Exception] = []

    def end(error: Exception) -> None:
        damage.append(error)
        server.end()

    with (
        listen(settings.host, settings.port) as listener,  # fails before anything is changed
        contextlib.ExitStack() as opened,
    ):
        ledger = _prepare(backend)
        if ledger is not None:
            opened.callback(ledger.close)
        _show_banner(settings, backend)
        app = create_app(settings, embedded_ledger=ledger, on_damage=end)
        server = server_of(app, settings, freezes_heap=True)
        server.run(sockets=[listener])
    for error in damage:
        raise error
    return 0 if server.started else 1


def _prepare(backend: EmbeddedBackend | SharedBackend) -> EmbeddedLedger | None:
    """Open an embedded ledger, or prepare one in PostgreSQL; its errors are one line here.

    Waits for a PostgreSQL server that is started at the same time.
    """
    if not backend.is_shared:
        return backend.open_at_once()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            backend.prepare()
        except LedgerUnavailableError as error:
            if time.monotonic() >= deadline:
                raise
            print(f"{error}; trying again", file=sys.stderr)
            time.sleep(1)
        else:
            return None


def _show_banner(settings: Settings, backend: LedgerBackend) -> None:
    reader = backend.reader()
    valid = [each for each in reader.reporters() if each.revoked_at_millis is None]
    reader.close()
    count = len(valid) + len(settings.reporter_keys)
    lines = [
        f"collector on http://{settings.host}:{settings.port}  (API: /docs)",
        f"ledger {backend.name}",
        f"reporters: {count}"
        + ("" if count else "  -> traffic-collector reporters add NAME makes the first key"),
    ]
    if not settings.admin_key:
        lines.append("COLLECTOR_ADMIN_KEY is not set: the bridge and statistics are refused")
    lines.append(
        f"{settings.influxdb_kind.product} {settings.influxdb_url}"
        if settings.influxdb_url
        else "INFLUXDB_URL is not set: no time series are written"
    )
    if not settings.subscription_links:
        lines.append("MARZBAN_URL is not set: users cannot report with their subscription token")
    for line in lines:
        print(line, file=sys.stderr)


def _check(arguments: argparse.Namespace, settings: Settings) -> int:
    backend = backend_of(settings.ledger_url)
    reader = backend.reader()
    started_at = time.monotonic()
    audit, facts = reader.audit(), reader.facts()
    reporters = [each for each in reader.reporters() if each.revoked_at_millis is None]
    reader.close()
    if arguments.json:
        _print_check(backend.name, facts, audit)
        return 1 if audit.problems else 0
    table = Table(title=f"Ledger {backend.name}", title_justify="left")
    table.add_column("what")
    table.add_column("value", justify="right")
    rows: Sequence[tuple[str, object]] = (
        ("ledger id", facts.ledger_id),
        ("size", f"{facts.size_bytes / 2**20:.1f} MiB"),
        ("users", facts.users),
        ("servers", facts.servers),
        ("reports counted", audit.reports),
        ("reports not added up yet", audit.unfolded),
        ("reports kept for deduplication", facts.records),
        ("sum over users", f"{audit.user_bytes} bytes"),
        ("sum over series", f"{audit.series_bytes} bytes"),
        ("sum over the days kept", f"{audit.day_bytes} bytes"),
        ("billed, over users", f"{audit.billed_bytes} bytes"),
        ("of which corrections", f"{audit.corrected_bytes:+d} bytes"),
        ("of which corrections, billed", f"{audit.corrected_billed_bytes:+d} bytes"),
        ("reporters", len(reporters) + len(settings.reporter_keys)),
        *_panel_states(settings),
    )
    for what, value in rows:
        table.add_row(what, str(value))
    console.print(table)
    for problem in audit.problems:
        console.print(f"[bold red]problem:[/] {problem}", highlight=False)
    verdict = "is NOT whole" if audit.problems else "is whole and its sums agree"
    console.print(f"The ledger {verdict} (checked in {time.monotonic() - started_at:.1f} s).")
    return 1 if audit.problems else 0


def _print_check(name: str, facts: Facts, audit: Audit) -> None:
    checked = {
        "ledger": name,
        "ledger_id": facts.ledger_id,
        "size_bytes": facts.size_bytes,
        "users": facts.users,
        "servers": facts.servers,
        "reports_counted": audit.reports,
        "reports_not_added_up": audit.unfolded,
        "reports_kept": facts.records,
        "user_bytes": audit.user_bytes,
        "series_bytes": audit.series_bytes,
        "day_bytes": audit.day_bytes,
        "billed_bytes": audit.billed_bytes,
        "corrected_bytes": audit.corrected_bytes,
        "problems": list(audit.problems),
    }
    print_json(checked)


def _back_up(arguments: argparse.Namespace, settings: Settings) -> int:
    told_at = time.monotonic()

    def tell(done_bytes: int, all_bytes: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= PROGRESS_SECONDS:
            told_at = time.monotonic()
            print(f"{done_bytes / 2**20:.0f} of {all_bytes / 2**20:.0f} MiB", file=sys.stderr)

    path = file_of(settings.ledger_url, instead=BACK_UP_BY_PG_DUMP)
    copy = back_up(path, arguments.file, on_progress=tell)
    print(
        f"{copy.path}: {copy.users} users, "
        f"{copy.size_bytes / 2**20:.1f} MiB, whole, in {copy.seconds:.1f} s"
    )
    return 0


def _panel_states(settings: Settings) -> list[tuple[str, str]]:
    if not settings.marzban_url:
        first = "MARZBAN_URL is not set"
    else:
        first = _answer_of(settings.marzban_url)
    further = [(f"panel {name}", _answer_of(url)) for name, url in settings.subscription_urls]
    return [("panel", first), *further]


def _answer_of(url: str) -> str:
    try:
        status = httpx.get(url, timeout=5).status_code
    except httpx.HTTPError as error:
        return f"does not answer ({type(error).__name__})"
    return f"answers ({status})"


if __name__ == "__main__":
    sys.exit(main())
