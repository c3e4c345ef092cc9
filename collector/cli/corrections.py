"""`traffic-collector void`, `adjust` and `corrections`: correct bytes that were counted."""

from __future__ import annotations

import argparse
from contextlib import closing
from datetime import date

from rich.table import Table
from rich.text import Text

from collector.cli import correction_values
from collector.cli.correction_run import carry_out
from collector.cli.objects import correction_object
from collector.cli.output import console, say, second_text
from collector.errors import SettingsError
from collector.ledger.backend import EmbeddedBackend, SharedBackend
from collector.ledger.corrections import Correction, Kind, VoidPreview, Wanted
from collector.ledger.engines import backend_of
from collector.ledger.ports import LedgerReader
from collector.ledger.sql.ratios import check_server
from collector.reports.report import canonical, fault_in_name
from collector.runtime.cli import print_json
from collector.runtime.logs import printable
from collector.settings import Settings

SHOWN_USERS = 20
SHOWN_CORRECTIONS = 100
MAX_PORT = 65_535
_SCOPES = ("reporter:", "user:", "import:")


def add_void(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `void`."""
    parser.add_argument(
        "--reporter",
        required=True,
        metavar="NAME",
        help="sender of the reports: a reporter's name, or user:NAME for a user without a key, or "
        "import:ORIGIN",
    )
    parser.add_argument(
        "--user", type=canonical, metavar="USER", help="only what was reported for this user"
    )
    parser.add_argument(
        "--since",
        required=True,
        metavar="T",
        help="received from then on: 2026-11-28T09:30Z, or 3h for 3 hours ago",
    )
    parser.add_argument("--until", metavar="T", help="received before then; default: now")
    _add_common(parser)


def add_adjust(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `adjust`."""
    parser.add_argument(
        "user", type=canonical, metavar="USER", help="as reports name it, letter by letter"
    )
    parser.add_argument(
        "--bytes", required=True, metavar="±N", help="to add; negative to subtract (--bytes=-N)"
    )
    parser.add_argument("--billed-bytes", metavar="±N", help="bytes to bill, if not the same")
    parser.add_argument(
        "--day",
        type=date.fromisoformat,
        metavar="DAY",
        help="the UTC day of the bytes, as 2026-11-01; default: now",
    )
    parser.add_argument("--server", metavar="SERVER", help="requires --port and --protocol")
    parser.add_argument("--port", type=int, metavar="PORT")
    parser.add_argument("--protocol", metavar="PROTOCOL")
    _add_common(parser)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", metavar="TEXT", default="", help="kept with the correction")
    parser.add_argument(
        "--yes", action="store_true", help="carry it out; without it, only show what would change"
    )


def void(arguments: argparse.Namespace, settings: Settings, *, now_millis: int) -> int:
    """Show the bytes a void would subtract; with --yes, carry it out.

    Raises SettingsError for a wrong argument, LedgerError and NotStoredError.
    """
    name: str = arguments.reporter
    scope = name if name.startswith(_SCOPES) else f"reporter:{name}"
    wanted = Wanted(
        kind=Kind.VOID,
        reason=correction_values.reason(arguments),
        actor=correction_values.actor(),
        username=arguments.user,
        scope=scope,
        since_millis=correction_values.moment(arguments.since, "--since", now_millis=now_millis),
        until_millis=(
            now_millis
            if arguments.until is None
            else correction_values.moment(arguments.until, "--until", now_millis=now_millis)
        ),
    )
    if (wanted.since_millis or 0) >= (wanted.until_millis or 0):
        raise SettingsError("--since must be before --until, and before now")
    backend = backend_of(settings.ledger_url)
    name = scope.removeprefix("reporter:")
    with closing(backend.reader()) as reader:
        preview = reader.preview(wanted)
        is_valid = any(
            each.name == name and each.revoked_at_millis is None for each in reader.reporters()
        )
    _show_preview(wanted, preview, name)
    if is_valid or name in dict(settings.reporter_keys):
        say(
            f"The key of {name} is valid: what it reports from now on is counted. If it was "
            f"stolen, first: traffic-collector reporters revoke {name}"
        )
    if not preview.users:
        say("There is nothing to void. Nothing was changed.")
        return 0
    if not arguments.yes:
        say("Nothing was changed. The same with --yes carries it out.")
        return 0
    return _carry_out(backend, wanted, now_millis=now_millis)


def adjust(arguments: argparse.Namespace, settings: Settings, *, now_millis: int) -> int:
    """Show what an adjustment would change; with --yes, carry it out.

    Raises SettingsError for a wrong argument, LedgerError and NotStoredError.
    """
    raw_bytes = correction_values.amount(arguments.bytes, "--bytes")
    billed_bytes = raw_bytes
    if arguments.billed_bytes is not None:
        billed_bytes = correction_values.amount(arguments.billed_bytes, "--billed-bytes")
    if not raw_bytes and not billed_bytes:
        raise SettingsError("--bytes: expected a number other than 0")
    series = (arguments.server, arguments.port, arguments.protocol)
    if None in series and series != (None, None, None):
        raise SettingsError("--server, --port and --protocol: give all three, or none")
    if arguments.server is not None:
        check_server(arguments.server)
        if fault_in_name(arguments.protocol) or not 0 <= arguments.port <= MAX_PORT:
            raise SettingsError("--port, --protocol: no report can have these values")
    if not arguments.reason:
        raise SettingsError("--reason is required: it is kept with the correction")
    since_millis = correction_values.noon_of(arguments.day, now_millis=now_millis)
    wanted = Wanted(
        kind=Kind.ADJUST,
        reason=correction_values.reason(arguments),
        actor=correction_values.actor(),
        username=arguments.user,
        since_millis=since_millis,
        raw_bytes=raw_bytes,
        billed_bytes=billed_bytes,
        server=arguments.server,
        port=arguments.port,
        protocol=arguments.protocol,
    )
    backend = backend_of(settings.ledger_url)
    when = "now" if arguments.day is None else f"{arguments.day}"
    say(f"{wanted.username}: {raw_bytes:+,} bytes, {billed_bytes:+,} billed, as of {when}.")
    with closing(backend.reader()) as reader:
        _show_sums(reader, arguments.user)
    if not arguments.yes:
        say("Nothing was changed. The same with --yes carries it out.")
        return 0
    return _carry_out(backend, wanted, now_millis=now_millis)


def corrections_list(settings: Settings, *, as_json: bool = False) -> int:
    """Show the newest corrections: who requested them, when, why, and how many bytes."""
    with closing(backend_of(settings.ledger_url).reader()) as reader:
        found = reader.corrections(limit=SHOWN_CORRECTIONS)
    if as_json:
        print_json([correction_object(each) for each in found])
        return 0
    table = Table(title="Corrections, newest first", title_justify="left")
    table.add_column("no.", justify="right")
    for column in ("asked (UTC)", "by", "what", "why"):
        table.add_column(column, overflow="fold")
    for column in ("reports", "bytes", "billed"):
        table.add_column(column, justify="right")
    table.add_column("state", overflow="fold")
    for each in found:
        table.add_row(
            str(each.number),
            second_text(each.asked_at_millis),
            Text(printable(each.wanted.actor)),
            Text(printable(_what(each.wanted))),
            Text(printable(each.wanted.reason)),
            f"{each.reports:,}",
            f"{each.raw_bytes:+,}",
            f"{each.billed_bytes:+,}",
            Text(printable(_state(each))),
        )
    console.print(table)
    return 0


def _what(wanted: Wanted) -> str:
    if wanted.kind is Kind.ADJUST:
        of = "" if wanted.since_millis is None else f", of {second_text(wanted.since_millis)[:10]}"
        return f"adjust {wanted.username}{of}"
    whose = f" for {wanted.username}" if wanted.username else ""
    return (
        f"void {wanted.scope}{whose}, {second_text(wanted.since_millis)} to "
        f"{second_text(wanted.until_millis)}"
    )


def _state(correction: Correction) -> str:
    if correction.problem is not None:
        return f"not done: {correction.problem}"
    if correction.done_at_millis is None:
        return "open"
    return f"done {second_text(correction.done_at_millis)}"


def _show_preview(wanted: Wanted, preview: VoidPreview, name: str) -> None:
    table = Table(title=Text(printable(f"Reports of {name}")), title_justify="left")
    table.add_column("user")
    for column in ("reports", "upload bytes", "download bytes", "billed bytes"):
        table.add_column(column, justify="right")
    for each in preview.users[:SHOWN_USERS]:
        table.add_row(
            Text(printable(each.username)),
            f"{each.reports:,}",
            f"{each.upload_bytes:,}",
            f"{each.download_bytes:,}",
            f"{each.billed_bytes:,}",
        )
    rest = len(preview.users) - SHOWN_USERS
    table.add_section()
    table.add_row(
        f"{len(preview.users):,} user"
        + ("" if len(preview.users) == 1 else "s")
        + (f", {rest:,} of them not shown" if rest > 0 else ""),
        f"{sum(it.reports for it in preview.users):,}",
        f"{sum(it.upload_bytes for it in preview.users):,}",
        f"{sum(it.download_bytes for it in preview.users):,}",
        f"{sum(it.billed_bytes for it in preview.users):,}",
    )
    console.print(table)
    begin, end = second_text(wanted.since_millis), second_text(wanted.until_millis)
    say(
        f"Received from {begin} to {end} UTC. "
        f"{preview.voided_before:,} reports of it were voided before."
    )
    kept_since = preview.kept_since_millis
    if kept_since is None or kept_since > (wanted.since_millis or 0):
        since = "None is kept" if kept_since is None else f"Kept since {second_text(kept_since)}"
        say(f"{since}: for older ones there is `traffic-collector adjust`.")


def _show_sums(reader: LedgerReader, username: str) -> None:
    servers = reader.servers_of(username, since_day=None)
    raw_bytes = sum(each.upload_bytes + each.download_bytes for each in servers)
    billed_bytes = sum(each.billed_bytes for each in servers)
    say(f"It has {raw_bytes:,} bytes in all, {billed_bytes:,} billed.")


def _carry_out(backend: EmbeddedBackend | SharedBackend, wanted: Wanted, *, now_millis: int) -> int:
    done = carry_out(backend, wanted, now_millis=now_millis)
    say(
        f"Correction {done.number}: {done.reports:,} reports voided, {done.raw_bytes:+,} bytes, "
        f"{done.billed_bytes:+,} billed. The bridge applies it when it next reads the feed."
    )
    return 0
