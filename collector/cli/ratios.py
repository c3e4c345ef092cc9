"""`traffic-collector ratios`: how much a byte on a server counts, set and shown from a terminal."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from collector.errors import SettingsError
from collector.ledger.backend import backend_of
from collector.reports.billing import AS_REPORTED_MILLIS, Ratio, parse_ratio, show_ratio
from collector.runtime.logs import printable
from collector.settings import Settings

console = Console()


def ratios_set(settings: Settings, server: str, ratio: str, *, now_millis: int) -> int:
    """Have a byte on a server count so many times from now on."""
    try:
        wanted = Ratio(server, parse_ratio(ratio), now_millis)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    backend = backend_of(settings.ledger_url)
    before = backend.set_ratio(wanted)
    was = show_ratio(AS_REPORTED_MILLIS if before is None else before)
    _say(
        f"{server}: a byte counts {show_ratio(wanted.ratio_millis)} times from now on (before: "
        f"{was}). What was reported before stays as it was billed."
    )
    with closing(backend.reader()) as reader:
        is_known = any(each.server == server for each in reader.servers_of(None, since_day=None))
    if not is_known:
        _say(
            f"No report has named {server} yet. The name must be the one in reports, letter by "
            "letter; `ratios list` shows those that were reported."
        )
    return 0


def ratios_clear(settings: Settings, server: str) -> int:
    """Have a byte on a server count as a byte again."""
    backend_of(settings.ledger_url).clear_ratio(server)
    _say(f"{server}: a byte counts as a byte from now on. What was billed before stays.")
    return 0


def ratios_list(settings: Settings) -> int:
    """Show every server that was reported or has a ratio, with what it used and what that counts.

    A reporter outside the quota makes billed less than the ratio says.
    """
    with closing(backend_of(settings.ledger_url).reader()) as reader:
        ratios = {each.server: each for each in reader.ratios()}
        raw: dict[str, int] = dict.fromkeys(ratios, 0)
        billed: dict[str, int] = dict.fromkeys(ratios, 0)
        for each in reader.servers_of(None, since_day=None):
            used_bytes = each.upload_bytes + each.download_bytes
            raw[each.server] = raw.get(each.server, 0) + used_bytes
            billed[each.server] = billed.get(each.server, 0) + each.billed_bytes
    table = Table(title="Servers and their ratios", title_justify="left")
    table.add_column("server")
    for column in ("ratio", "raw bytes", "billed bytes"):
        table.add_column(column, justify="right")
    table.add_column("set (UTC)")
    for server in sorted(raw, key=lambda server: (server not in ratios, -raw[server], server)):
        ratio = ratios.get(server)
        table.add_row(
            Text(printable(server)),
            show_ratio(ratio.ratio_millis if ratio else AS_REPORTED_MILLIS),
            f"{raw[server]}",
            f"{billed[server]}",
            f"{datetime.fromtimestamp(ratio.set_at_millis / 1000, tz=UTC):%Y-%m-%d %H:%M}"
            if ratio
            else "",
        )
    console.print(table)
    return 0


def _say(line: str) -> None:
    """Print a line as it is; names in it are data."""
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
