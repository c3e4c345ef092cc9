"""What the demo shows: each user's usage, what happens, and the final table."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from marzban_bridge.demo.cast import CAST
from marzban_bridge.demo.stage import Stage
from marzban_bridge.demo.verdict import Line
from marzban_bridge.quota.balance import Balance
from marzban_bridge.sizes import human_bytes
from marzban_bridge.tables import human_share

BAR_WIDTH = 30
NEWS_LINES = 8
_STATUS_STYLE = {"active": "green", "limited": "red", "disabled": "red", "on_hold": "yellow"}


def live(stage: Stage) -> Group:
    """Draw the current state of all users."""
    title = f"{stage.panel.dialect.title} users: [cyan]panel[/] + [magenta]external[/] traffic"
    table = Table(title=title, expand=False)
    table.add_column("user")
    table.add_column("used of the quota", width=BAR_WIDTH + 6)
    table.add_column("quota", justify="right")
    table.add_column("panel's limit", justify="right")
    table.add_column("status")
    table.add_column("what it shows", style="dim")
    for role in CAST:
        user = stage.user(role.username)
        balance = _balance(stage, role.username, user)
        status = str(user["status"])
        table.add_row(
            role.username,
            _bar(balance),
            human_bytes(balance.quota_bytes),
            human_bytes(user["data_limit"]),
            Text(status, style=_STATUS_STYLE.get(status, "")),
            role.shows,
        )
    seconds = max(0.0, stage.ends_at - time.monotonic())
    counted = "   ".join(f"{count} {what}" for what, count in sorted(stage.counts.items()))
    news = [Text.from_markup(line) for line in list(stage.news)[-NEWS_LINES:]]
    left = f"{seconds:.0f} s of traffic left" if seconds else "until each story has ended"
    footer = Text(f"{left}   {counted}", style="dim")
    return Group(table, *news, footer)


def _balance(stage: Stage, username: str, user: dict[str, object]) -> Balance:
    account = stage.bridges.store.accounts.get(username)
    used_bytes = user["used_traffic"]
    limit_bytes = user["data_limit"]
    baseline_bytes = account.baseline_bytes if account else 0
    quota_bytes = limit_bytes if isinstance(limit_bytes, int) else None
    return Balance(
        quota_bytes=account.quota_bytes if account else quota_bytes,
        panel_bytes=used_bytes if isinstance(used_bytes, int) else 0,
        external_bytes=max(0, stage.bridges.store.usage.total_bytes(username) - baseline_bytes),
    )


def _bar(balance: Balance) -> Text:
    """Draw the panel's share and the external share of a quota as one bar."""
    if not balance.quota_bytes:
        return Text(f"{human_bytes(balance.used_bytes)} of no limit", style="dim")
    panel = min(BAR_WIDTH, round(BAR_WIDTH * balance.panel_bytes / balance.quota_bytes))
    used = min(BAR_WIDTH, round(BAR_WIDTH * balance.used_bytes / balance.quota_bytes))
    bar = Text("█" * panel, style="cyan")
    bar.append("█" * max(0, used - panel), style="magenta")
    bar.append("·" * (BAR_WIDTH - max(used, panel)), style="dim")
    bar.append(f" {human_share(balance):>5}")
    return bar


def final_table(lines: Sequence[Line]) -> Table:
    """Show for every user whether reported, counted and enforced agree."""
    table = Table(title="The books", title_justify="left", box=box.SIMPLE)
    table.add_column("user")
    table.add_column("status")
    for name in ("quota", "panel", "external", "used", "panel's limit", "reported for ever"):
        table.add_column(name, justify="right")
    table.add_column("balances")
    for line in lines:
        balance = line.balance
        amounts = [""] * 5
        if balance:
            amounts = [
                human_bytes(balance.quota_bytes),
                human_bytes(balance.panel_bytes),
                human_bytes(balance.external_bytes),
                human_share(balance),
                human_bytes(line.data_limit_bytes),
            ]
        verdict = Text("yes", style="green")
        if line.problems:
            verdict = Text("; ".join(line.problems), style="bold red")
        table.add_row(
            line.username, line.status, *amounts, human_bytes(line.reported_bytes), verdict
        )
    return table
