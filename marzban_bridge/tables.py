"""Tables of users, changes, events, unknown names and resellers for a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol, Self

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from marzban_bridge.panels.names import scoped
from marzban_bridge.quota.account import Account
from marzban_bridge.quota.balance import Balance
from marzban_bridge.quota.plan import Change
from marzban_bridge.quota.resellers.reseller import Reseller
from marzban_bridge.quota.usage import Totals, UnknownName
from marzban_bridge.sizes import human_bytes, human_value
from marzban_bridge.store.events import RecordedEvent


def seen_totals(account: Account) -> Totals:
    """Return the ledger's totals as of the user's last evaluation."""
    return Totals(billed_bytes=account.seen_total_bytes, raw_bytes=account.seen_raw_bytes)


def human_share(balance: Balance) -> str:
    """Format the used part of a quota in percent."""
    if not balance.quota_bytes:
        return "-"
    return f"{100 * balance.used_bytes / balance.quota_bytes:.0f} %"


class PlannedRow(NamedTuple):
    """A row for a planned change, computed here or received from a running bridge."""

    username: str
    kind: str
    reason: str
    data_limit_bytes: int | None
    status: str | None

    @classmethod
    def of(cls, change: Change) -> Self:
        """Make the row of a change."""
        update = change.update
        return cls(
            username=change.username,
            kind=change.kind.value,
            reason=change.reason,
            data_limit_bytes=update.data_limit_bytes if update else None,
            status=update.status.value if update and update.status else None,
        )


class UserRow(NamedTuple):
    """A row for a user, computed here or received from a running bridge."""

    username: str
    status: str
    balance: Balance
    published_limit_bytes: int | None

    @classmethod
    def of(cls, account: Account, balance: Balance) -> Self:
        """Make the row of an account."""
        return cls.of_parts(
            username=account.username,
            status=account.sighting.status.value,
            is_held=account.is_held,
            is_disabled_by_us=account.is_disabled_by_us,
            balance=balance,
            published_limit_bytes=account.sighting.data_limit_bytes,
        )

    @classmethod
    def of_parts(
        cls,
        *,
        username: str,
        status: str,
        is_held: bool,
        is_disabled_by_us: bool,
        balance: Balance,
        published_limit_bytes: int | None,
    ) -> Self:
        """Make a row; its status says if the bridge holds or has disabled the user."""
        if is_disabled_by_us:
            status = "disabled by us"
        if is_held:
            status = "held: rebase"
        return cls(username, status, balance, published_limit_bytes)


def users_table(rows: Iterable[tuple[Account, Balance]], *, title: str = "Users") -> Table:
    """Return a table of users, from accounts."""
    return user_rows_table((UserRow.of(*row) for row in rows), title=title)


def user_rows_table(rows: Iterable[UserRow], *, title: str) -> Table:
    """Return a table of users; it has raw external bytes only if a ratio makes them differ."""
    shown = list(rows)
    has_ratios = any(
        row.balance.external_raw_bytes not in {None, row.balance.external_bytes} for row in shown
    )
    raw = ("raw",) if has_ratios else ()
    table = _table(title, "user", "status")
    for name in ("quota", "panel", "external", *raw, "used", "panel limit"):
        table.add_column(name, justify="right", no_wrap=name != "panel limit")
    for username, status, balance, published_limit_bytes in shown:
        table.add_row(
            _data(username),
            status,
            human_bytes(balance.quota_bytes),
            human_bytes(balance.panel_bytes),
            human_bytes(balance.external_bytes),
            *([human_bytes(balance.external_raw_bytes)] if has_ratios else []),
            human_share(balance),
            human_bytes(published_limit_bytes),
        )
    return table


def plan_table(rows: Iterable[PlannedRow]) -> Table:
    """Return a table of planned changes."""
    table = _table("Planned changes", "user", "change")
    table.add_column("data limit", justify="right", no_wrap=True)
    table.add_column("status")
    table.add_column("why", overflow="fold")
    for row in rows:
        limit_bytes = row.data_limit_bytes
        table.add_row(
            _data(row.username),
            row.kind,
            "" if limit_bytes is None else human_bytes(limit_bytes),
            row.status or "",
            _data(row.reason),
        )
    return table


def events_table(events: Iterable[RecordedEvent]) -> Table:
    """Return a table of events, in the given order."""
    table = _table("Events", "time (UTC)", "user", "event", "by", "what")
    table.columns[0].no_wrap = True
    for each in events:
        event = each.event
        what = event.text
        before, after = (human_value(v, kind=event.kind) for v in (event.before, event.after))
        if before or after:
            what = f"{what}: {before or '-'} → {after or '-'}"
        table.add_row(
            f"{each.at:%Y-%m-%d %H:%M:%S}",
            _data(each.username),
            event.kind,
            _data(event.actor),
            _data(what),
        )
    return table


def unknown_names_table(unknown_names: Iterable[UnknownName]) -> Table:
    """Return a table of unknown names."""
    table = _table("Reported names that the panel has no user of", "name")
    table.add_column("external", justify="right", no_wrap=True)
    table.add_column("first seen (UTC)", no_wrap=True)
    table.add_column("user deleted (UTC)", no_wrap=True)
    for each in unknown_names:
        table.add_row(
            _data(each.username),
            human_bytes(each.total_bytes),
            f"{each.first_seen_at:%Y-%m-%d %H:%M}",
            f"{each.gone_at:%Y-%m-%d %H:%M}" if each.gone_at else "",
        )
    return table


def resellers_table(rows: Iterable[tuple[str, Reseller]]) -> Table:
    """Return a table of resellers, each with its panel's name; the most used quota first."""
    table = _table("Resellers", "reseller")
    for name in ("quota", "used", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("reset", "since (UTC)", "enforced"):
        table.add_column(name)
    named = [(scoped(panel, reseller.admin), reseller) for panel, reseller in rows]
    for name, reseller in sorted(named, key=lambda row: (-row[1].used_ratio, row[0])):
        enforced = "yes" if reseller.is_enforced else "no"
        table.add_row(
            _data(name),
            human_bytes(reseller.quota_bytes),
            human_bytes(reseller.used_bytes),
            f"{100 * reseller.used_ratio:.0f} %",
            reseller.reset.value,
            f"{reseller.period_started_at:%Y-%m-%d %H:%M}",
            "users are cut off" if reseller.is_cut_off else enforced,
        )
    return table


class PanelRebaseRow(Protocol):
    """A row for an account of a panel that is to be accepted as it is."""

    username: str
    what: str
    quota_bytes: int | None
    external_bytes: int
    marzban_bytes_before: int
    marzban_bytes: int | None
    published_limit_bytes: int | None
    status: str | None


def panel_rebase_table(rows: Iterable[PanelRebaseRow]) -> Table:
    """Return a table of what accepting the panel changes; unchanged accounts come last."""
    table = _table("What accepting the panel would do", "user")
    table.columns[0].min_width = 8  # the user's name is readable on the narrowest terminal
    for name in ("our quota", "our external", "panel then", "panel now", "panel limit"):
        table.add_column(name, justify="right", overflow="fold", min_width=6)
    table.add_column("status", overflow="fold", min_width=6)
    table.add_column("what", overflow="fold", min_width=12)
    for row in sorted(rows, key=lambda row: (row.what.startswith("kept"), row.username)):
        is_there = row.marzban_bytes is not None
        table.add_row(
            _data(row.username),
            human_bytes(row.quota_bytes),
            human_bytes(row.external_bytes),
            human_bytes(row.marzban_bytes_before),
            human_bytes(row.marzban_bytes) if is_there else "-",
            human_bytes(row.published_limit_bytes) if is_there else "-",
            row.status or "-",
            row.what,
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _data(text: str) -> Text:
    """Return untrusted text without markup and without control characters."""
    return Text(
        "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    )
