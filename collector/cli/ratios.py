"""`traffic-collector ratios`: sets and lists the billing ratios of servers."""

from __future__ import annotations

from contextlib import closing

from rich.table import Table
from rich.text import Text

from collector.cli.output import console, minute_text, say
from collector.errors import SettingsError
from collector.ledger.engines import backend_of
from collector.reports.billing import AS_REPORTED_MILLIS, Ratio, parse_ratio, show_ratio
from collector.runtime.cli import print_json
from collector.runtime.logs import printable
from collector.settings import Settings


def ratios_set(settings: Settings, server: str, ratio: str, *, now_millis: int) -> int:
    """Set how many bytes a byte on a server is billed as, for reports from now on."""
    try:
        wanted = Ratio(server, parse_ratio(ratio), now_millis)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    backend = backend_of(settings.ledger_url)
    before = backend.set_ratio(wanted)
    was = show_ratio(AS_REPORTED_MILLIS if before is None else before)
    say(
        f"{server}: a byte is billed {show_ratio(wanted.ratio_millis)} times from now on "
        f"(before: {was}). Earlier reports stay as they were billed."
    )
    with closing(backend.reader()) as reader:
        is_known = any(each.server == server for each in reader.servers_of(None, since_day=None))
    if not is_known:
        say(
            f"No report has named {server} yet. Give the name letter by letter as in reports; "
            "`ratios list` shows the reported names."
        )
    return 0


def ratios_clear(settings: Settings, server: str) -> int:
    """Set a server's ratio back to 1, for reports from now on."""
    backend_of(settings.ledger_url).clear_ratio(server)
    say(f"{server}: a byte is billed once from now on. Earlier reports stay as they were billed.")
    return 0


def ratios_list(settings: Settings, *, as_json: bool = False) -> int:
    """List every server that was reported or has a ratio, with its raw and billed bytes.

    Reports of a reporter outside the quota are not billed, whatever the ratio.
    """
    with closing(backend_of(settings.ledger_url).reader()) as reader:
        ratios = {each.server: each for each in reader.ratios()}
        raw: dict[str, int] = dict.fromkeys(ratios, 0)
        billed: dict[str, int] = dict.fromkeys(ratios, 0)
        for each in reader.servers_of(None, since_day=None):
            used_bytes = each.upload_bytes + each.download_bytes
            raw[each.server] = raw.get(each.server, 0) + used_bytes
            billed[each.server] = billed.get(each.server, 0) + each.billed_bytes
    if as_json:
        found = [
            {
                "server": server,
                "ratio": ratios[server].ratio_millis / 1000 if server in ratios else 1.0,
                "raw_bytes": raw[server],
                "billed_bytes": billed[server],
            }
            for server in sorted(raw)
        ]
        print_json(found)
        return 0
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
            minute_text(ratio.set_at_millis if ratio else None),
        )
    console.print(table)
    return 0
