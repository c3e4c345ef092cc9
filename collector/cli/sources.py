"""`traffic-collector sources`: shows what the sources file configures."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from collector.ledger.engines import backend_of
from collector.runtime.logs import printable
from collector.settings import Settings
from collector.sources import three_x_ui, uniproxy
from collector.sources.file import load_sources

console = Console()


def show_sources(settings: Settings) -> int:
    """List the configured sources; return exit code 1 if one has no reporter with a valid key.

    Raises SettingsError for a mistake in the file, LedgerError for a ledger that cannot be read.
    """
    config = load_sources(settings.sources_file)
    if not config.panels and not config.uniproxies:
        print("COLLECTOR_SOURCES_FILE configures no source. A 3x-ui needs no entry: without")
        print("one its server is named as its reporter, and its clients' emails are the usernames.")
        return 0
    reader = backend_of(settings.ledger_url).reader()
    valid = {each.name for each in reader.reporters() if each.revoked_at_millis is None}
    reader.close()
    valid.update(name for name, _ in settings.reporter_keys)
    rows = [
        (three_x_ui.KIND, name, _address(panel.server, panel.port), panel.protocol, panel.users, "")
        for name, panel in config.panels.items()
    ] + [
        (
            uniproxy.KIND,
            name,
            "\n".join(
                f"{node}: {_address(each.server, each.port)}" for node, each in panel.nodes.items()
            ),
            "of the node",
            panel.users,
            f"{panel.retry_window_seconds:g} s",
        )
        for name, panel in config.uniproxies.items()
    ]
    table = Table(title=f"Sources of {settings.sources_file}", title_justify="left")
    for column in ("kind", "reporter", "server", "protocol", "users", "retry window", "state"):
        table.add_column(column)
    for kind, name, server, protocol, users, window in rows:
        state = "ready" if name in valid else "no such reporter"
        cells = (kind, name, server, protocol, str(users), window, state)
        table.add_row(*(Text("\n".join(map(printable, each.split("\n")))) for each in cells))
    console.print(table)
    without_key = sorted({name for _, name, *_ in rows} - valid)
    for name in without_key:
        print(f"{name} has no valid key: traffic-collector reporters add {name}")
    return 1 if without_key else 0


def _address(server: str, port: int) -> str:
    return f"{server}:{port}" if port else server
