"""Events for what happened to a user in the panel, and no write of the bridge brought about."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from marzban_bridge.panels.users import PanelUser, Status
from marzban_bridge.quota.account import Account, Event
from marzban_bridge.sizes import human_bytes

PANEL = "panel"
LET_IN = (
    "an admin made the user active in the panel although the bridge had disabled it; that is no "
    "reset, and while the quota is used up the bridge disables the user again in a minute: raise "
    "its data limit, or reset it with `marzban-bridge reset` or from a dashboard. The panel's own "
    "Reset usage reaches the bridge for such a user only by the panel's webhook (WEBHOOK_ADDRESS)"
)


def panel_events(before: Account, user: PanelUser) -> list[Event]:
    """Return the events of a user who was limited, expired or given to another admin.

    `before` is the account as it was stored at the last evaluation. A user whom a limit of the
    bridge has cut off since then has that write's event.
    """
    seen = before.sighting
    events: list[Event] = []
    if user.status is not seen.status:
        text = None
        if user.status is Status.LIMITED and not _has_written_limit(before):
            text = (
                f"the panel cut the user off: {human_bytes(user.used_bytes)} used on its nodes, of "
                f"{human_bytes(user.data_limit_bytes)} there (quota "
                f"{human_bytes(before.quota_bytes)})"
            )
        elif user.status is Status.EXPIRED:
            text = "the user's time is over in the panel"
        if text:
            kind = user.status.value
            event = Event(kind=kind, text=text, actor=PANEL, before=seen.status.value, after=kind)
            events.append(event)
    if user.admin != before.admin:
        text = f"the user is {user.admin}'s now" if user.admin else "the user has no admin now"
        events.append(
            Event(
                kind="admin_changed", text=text, actor=PANEL, before=before.admin, after=user.admin
            )
        )
    return events


def let_in(
    account: Account, user: PanelUser, *, now: datetime, was_reset: bool
) -> tuple[Account, list[Event]]:
    """Note that a user which the bridge disabled is active; that alone is no reset."""
    if user.status is Status.DISABLED:
        return replace(account, let_in_at=None), []
    if not account.is_disabled_by_us:
        return (replace(account, let_in_at=None) if was_reset else account), []
    active = replace(account, is_disabled_by_us=False, let_in_at=None if was_reset else now)
    return active, [] if was_reset else [Event(kind="let_in", text=LET_IN)]


def _has_written_limit(account: Account) -> bool:
    """Tell whether the bridge has written a limit since the last evaluation."""
    wrote_at = account.limit_written_at
    return wrote_at is not None and wrote_at >= account.sighting.seen_at
