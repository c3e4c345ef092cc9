"""How the bridge's books look in a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from marzban_bridge.accounts import Account, Balance
from marzban_bridge.plan import Change
from marzban_bridge.store import Orphan, RecordedEvent

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def human_bytes(amount_bytes: int | None) -> str:
    """Write an amount in IEC units with three digits; None is unlimited."""
    if amount_bytes is None:
        return "unlimited"
    amount = float(abs(amount_bytes))
    unit = 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount /= 1024
        unit += 1
    sign = "-" if amount_bytes < 0 else ""
    digits = 0 if unit == 0 else max(0, 2 - len(str(int(amount))) + 1)
    return f"{sign}{amount:.{digits}f} {_UNITS[unit]}"


def human_share(balance: Balance) -> str:
    """Write how much of a quota is used, in percent."""
    if not balance.quota_bytes:
        return "-"
    return f"{100 * balance.used_bytes / balance.quota_bytes:.0f} %"


def users_table(rows: Iterable[tuple[Account, Balance]], *, title: str = "Users") -> Table:
    """Show how users stand."""
    table = Table(title=title, title_justify="left")
    table.add_column("user")
    table.add_column("status")
    for name in ("quota", "panel", "external", "used", "panel limit"):
        table.add_column(name, justify="right")
    for account, balance in rows:
        table.add_row(
            account.username,
            _status(account),
            human_bytes(balance.quota_bytes),
            human_bytes(balance.panel_bytes),
            human_bytes(balance.external_bytes),
            human_share(balance),
            human_bytes(account.sighting.data_limit_bytes),
        )
    return table


def _status(account: Account) -> str:
    if account.is_held:
        return "held: rebase"
    if account.is_disabled_by_us:
        return "disabled by us"
    return account.sighting.status.value


def plan_table(changes: Iterable[Change]) -> Table:
    """Show what would be changed."""
    table = Table(title="Planned changes", title_justify="left")
    table.add_column("user")
    table.add_column("change")
    table.add_column("data limit", justify="right")
    table.add_column("status")
    table.add_column("why")
    for change in changes:
        limit_bytes = change.update.data_limit_bytes if change.update else None
        status = change.update.status if change.update else None
        table.add_row(
            change.username,
            change.kind.value,
            "" if limit_bytes is None else human_bytes(limit_bytes),
            status.value if status else "",
            change.reason,
        )
    return table


def events_table(events: Iterable[RecordedEvent]) -> Table:
    """Show what happened, in the order given."""
    table = Table(title="Events", title_justify="left")
    for name in ("time (UTC)", "user", "event", "by", "text", "before", "after"):
        table.add_column(name)
    for each in events:
        event = each.event
        table.add_row(
            f"{each.at:%Y-%m-%d %H:%M:%S}",
            each.username,
            event.kind,
            event.actor,
            event.text,
            event.before or "",
            event.after or "",
        )
    return table


def orphans_table(orphans: Iterable[Orphan]) -> Table:
    """Show the names that are reported and that the panel does not know."""
    table = Table(title="Reported names the panel does not know", title_justify="left")
    table.add_column("name")
    table.add_column("external", justify="right")
    table.add_column("first seen (UTC)")
    for each in orphans:
        table.add_row(
            each.username, human_bytes(each.total_bytes), f"{each.first_seen_at:%Y-%m-%d %H:%M}"
        )
    return table
