"""`traffic-collector reporters`: lists, adds, changes and revokes reporters and their keys."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing

from rich.table import Table

from collector.cli.objects import refused_object, reporter_object
from collector.cli.output import console, minute_text
from collector.errors import LedgerError
from collector.ledger.backend import LedgerBackend
from collector.ledger.engines import backend_of
from collector.reports.contacts import KEPT_DAYS, Refused
from collector.reports.reporters import (
    Configured,
    Reporter,
    configured_by,
    hash_key,
    merge_configured,
    signing_secret,
)
from collector.runtime.cli import add_json, print_json
from collector.runtime.listening import is_loopback
from collector.runtime.logs import printable
from collector.runtime.wall_clock import wall_clock_millis
from collector.settings import Settings

DEFAULT_GRACE_HOURS = 24.0
MAX_GRACE_HOURS = 24 * 30
MOST_SHOWN = 20


def add_reporters(reporters: argparse.ArgumentParser) -> None:
    """Add the arguments of `reporters`."""
    actions = reporters.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="create a reporter and its key; the key is shown once")
    add.add_argument("name")
    add.add_argument(
        "--outside-quota",
        action="store_false",
        dest="counts_toward_quota",
        default=None,
        help="store and show its reports, but bill them to no quota",
    )
    add.set_defaults(run=_add_reporter)
    listing = actions.add_parser("list", help="list all reporters, without their keys")
    add_json(listing)
    listing.set_defaults(run=_list_reporters)
    change = actions.add_parser(
        "change", help="set whether its reports are billed to quotas; in force within a second"
    )
    change.add_argument("name")
    counts = change.add_mutually_exclusive_group(required=True)
    counts.add_argument("--outside-quota", action="store_false", dest="counts_toward_quota")
    counts.add_argument("--counts", action="store_true", dest="counts_toward_quota")
    change.set_defaults(run=_change_reporter)
    rotate = actions.add_parser(
        "rotate", help="replace a reporter's key; the name stays, the new key is shown once"
    )
    rotate.add_argument("name")
    old = rotate.add_mutually_exclusive_group()
    old.add_argument(
        "--grace-hours",
        type=_grace_hours,
        default=DEFAULT_GRACE_HOURS,
        metavar="H",
        help=f"how long the old key stays valid (default: {DEFAULT_GRACE_HOURS})",
    )
    old.add_argument(
        "--at-once",
        action="store_const",
        const=0.0,
        dest="grace_hours",
        help="refuse the old key, and earlier ones, within a second",
    )
    rotate.set_defaults(run=_rotate_reporter)
    revoke = actions.add_parser("revoke", help="make a reporter's key invalid, within a second")
    revoke.add_argument("name")
    revoke.set_defaults(run=_revoke_reporter)


def _grace_hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = -1.0
    if not 0 < hours <= MAX_GRACE_HOURS:
        raise argparse.ArgumentTypeError(
            f"expected a number of hours up to {MAX_GRACE_HOURS}, or --at-once"
        )
    return hours


def _add_reporter(arguments: argparse.Namespace, settings: Settings) -> int:
    backend = backend_of(settings.ledger_url)
    key = backend.add_reporter(
        arguments.name,
        now_millis=wall_clock_millis(),
        counts_toward_quota=arguments.counts_toward_quota,
    )
    print(f"Reporter {arguments.name}. Its key, which is shown only now:\n\n  {key}\n")
    with closing(backend.reader()) as reader:
        made = {each.name: each for each in reader.reporters()}[arguments.name]
    if not made.counts_toward_quota:
        print(
            "It is outside the quota: its reports are stored and shown, and billed to no quota.\n"
        )
    print("For Standard Webhooks signatures: the signing secret of the key, to be used with")
    print(f"?reporter={arguments.name} in the URL:\n\n  {signing_secret(hash_key(key))}\n")
    print("Try it:\n")
    print(f"  curl -sS {settings.senders_url}/v1/reports \\")
    print(f"    -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\")
    print('    -d \'{"user_token": "USERNAME", "server": "de-1", "port": 443, "protocol": "vless",')
    print('         "bytes_uploaded": 1000, "bytes_downloaded": 2000}\'\n')
    print("The External Traffic Inform URI of a 3x-ui (docs/sources/3x-ui.md):\n")
    print(f"  {settings.senders_url}/v1/sources/3x-ui/{key}")
    if is_loopback(settings.senders_url):
        print(
            "\nThat address is this machine's own. Set COLLECTOR_PUBLIC_URL to the one at which "
            "others reach this collector (docs/install.md)."
        )
    return 0


def _list_reporters(arguments: argparse.Namespace, settings: Settings) -> int:
    with closing(backend_of(settings.ledger_url).reader()) as reader:
        last_reports = reader.last_reports()
        reporters = reader.reporters()
        noted = reader.configured()
        contacts = reader.contacts()
    own = merge_configured(noted, _own(settings))
    started = {each.key_hash: each for each in noted}
    found: list[tuple[Reporter | Configured, str, str]] = [
        *((each, "reporters add", "valid") for each in reporters),
        *(
            (each, "COLLECTOR_REPORTER_KEYS", "valid")
            for each in (own if settings.reporter_keys else noted)
        ),
    ]
    if arguments.json:
        listed = [
            reporter_object(
                each,
                origin,
                last_contact_millis=contacts.last_contacts.get(each.name),
                last_report_millis=last_reports.get(f"reporter:{each.name}"),
            )
            for each, origin, _ in found
        ]
        print_json({"reporters": listed, "refused": [refused_object(e) for e in contacts.refused]})
        return 0
    table = Table(title="Reporters", title_justify="left")
    for column in (
        *("name", "made by", "since (UTC)", "last contact (UTC)", "last report (UTC)"),
        *("quota", "state"),
    ):
        table.add_column(column)
    for each, origin, valid in found:
        state = valid
        if isinstance(each, Reporter) and (ends := _grace_ends(each)):
            state = f"valid, the old key until {minute_text(ends)}"
        if each.revoked_at_millis is not None:
            state = f"revoked {minute_text(each.revoked_at_millis)}"
        elif isinstance(each, Configured) and started.get(each.key_hash) is None:
            state = "valid when a collector is started"
        table.add_row(
            each.name,
            origin,
            minute_text(each.created_at_millis),
            minute_text(contacts.last_contacts.get(each.name)),
            minute_text(last_reports.get(f"reporter:{each.name}")),
            _quota_of(counts_toward_quota=each.counts_toward_quota),
            state,
        )
    console.print(table)
    if contacts.refused:
        _show_refused(contacts.refused)
    return 0


def _show_refused(refused: Sequence[Refused]) -> None:
    table = Table(
        title=f"Requests with reports refused in the last {KEPT_DAYS} days", title_justify="left"
    )
    table.add_column("address")
    table.add_column("reason")
    table.add_column("requests", justify="right")
    table.add_column("last (UTC)")
    for each in refused[:MOST_SHOWN]:
        address = each.address or "other addresses"
        table.add_row(
            printable(address), each.reason, f"{each.requests:,}", minute_text(each.last_at_millis)
        )
    console.print(table)
    if len(refused) > MOST_SHOWN:
        print(f"and {len(refused) - MOST_SHOWN} more: GET /v1/reporters")


def _own(settings: Settings) -> list[Configured]:
    return configured_by(
        settings.reporter_keys,
        outside_quota=settings.reporters_outside_quota,
        now_millis=wall_clock_millis(),
    )


def _quota_of(*, counts_toward_quota: bool) -> str:
    return "counts" if counts_toward_quota else "outside"


def _is_configured_alone(name: str, backend: LedgerBackend, settings: Settings) -> bool:
    """Tell whether a reporter's only key is in a collector's environment, none in the ledger."""
    with closing(backend.reader()) as reader:
        stored = {each.name for each in reader.reporters() if each.revoked_at_millis is None}
        configured = {each.name for each in reader.configured()}
    return name not in stored and name in configured | dict(settings.reporter_keys).keys()


def _change_reporter(arguments: argparse.Namespace, settings: Settings) -> int:
    backend, name = backend_of(settings.ledger_url), arguments.name
    if _is_configured_alone(name, backend, settings):
        raise LedgerError(
            f"{name} is set in COLLECTOR_REPORTER_KEYS: change COLLECTOR_REPORTERS_OUTSIDE_QUOTA"
        )
    backend.change_reporter(name, counts_toward_quota=arguments.counts_toward_quota)
    verb = "counts" if arguments.counts_toward_quota else "does not count"
    print(f"What {name} reports from now on {verb} against quotas. Earlier reports stay billed.")
    return 0


def _rotate_reporter(arguments: argparse.Namespace, settings: Settings) -> int:
    backend, name, now_millis = backend_of(settings.ledger_url), arguments.name, wall_clock_millis()
    if _is_configured_alone(name, backend, settings):
        raise LedgerError(
            f"the key of {name} is in COLLECTOR_REPORTER_KEYS: put another key there under the "
            "same name and restart the collector; reports that it sends again count once"
        )
    grace_millis = int(arguments.grace_hours * 3_600_000)
    key = backend.rotate_reporter(name, now_millis=now_millis, grace_millis=grace_millis)
    print(f"Reporter {name} has a new key, which is shown only now:\n\n  {key}\n")
    print("For Standard Webhooks signatures, the signing secret of the key:\n")
    print(f"  {signing_secret(hash_key(key))}\n")
    if grace_millis:
        print(f"The old key stays valid until {minute_text(now_millis + grace_millis)} UTC.")
    else:
        print("The old key is refused within a second.")
    print(f"The name stays: reports that {name} sends again with the new key count once.")
    return 0


def _revoke_reporter(arguments: argparse.Namespace, settings: Settings) -> int:
    backend, name, now_millis = backend_of(settings.ledger_url), arguments.name, wall_clock_millis()
    with closing(backend.reader()) as reader:
        is_stored = any(
            each.name == name and each.revoked_at_millis is None for each in reader.reporters()
        )
    if name in dict(settings.reporter_keys):
        backend.note_configured(_own(settings))  # no collector may have been started with it yet
    is_configured = backend.revoke_configured(name, now_millis=now_millis)
    if is_stored or not is_configured:
        backend.revoke_reporter(name, now_millis=now_millis)
    print(f"{name} is refused from now on. Its earlier reports stay counted.")
    print(
        f"For a new key, `reporters add {name}`: keep the name. A report that is sent again under "
        "another name counts twice, if it was stored under this one."
    )
    if is_configured:
        print(
            "Its key is in a collector's COLLECTOR_REPORTER_KEYS: it is refused there as well, "
            "also after a restart. Remove it there, or put another key in."
        )
    return 0


def _grace_ends(reporter: Reporter) -> int | None:
    """Return when the last old key becomes invalid, in ms since 1970; None without one."""
    now_millis = wall_clock_millis()
    ends = [each.valid_until_millis for each in reporter.former_keys]
    return max((each for each in ends if each > now_millis), default=None)
