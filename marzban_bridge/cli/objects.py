"""Users and events of the store, for tables and as JSON; and the error for an unknown name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from collector.runtime.near_words import near_words
from marzban_bridge.errors import BridgeError
from marzban_bridge.quota.account import Account
from marzban_bridge.quota.balance import Balance, balance_with_raw, trusted
from marzban_bridge.store.events import RecordedEvent
from marzban_bridge.store.store import Store
from marzban_bridge.tables import UserRow

MOST_CLOSE = 3


def user_rows(store: Store, username: str | None = None) -> Iterator[tuple[Account, Balance]]:
    """Yield the users with external traffic under their public names, or the one of a name."""
    panels, key = list(store.panels), None
    if username is not None:
        panel, key = store.placement.place_of(username)
        panels = [panel]
    for panel in panels:
        stored = store.of(panel)
        of_name = None if key is None else stored.accounts.get(key)
        accounts = stored.accounts.all() if key is None else filter(None, (of_name,))
        for account in accounts:
            shown = trusted(account, is_store_suspended=bool(store.suspended))
            public = stored.placement.public_name(shown.username)
            balance = balance_with_raw(shown, stored.usage.totals(account.key))
            yield replace(shown, username=public), balance


def user_objects(store: Store, username: str | None = None) -> Iterator[Mapping[str, object]]:
    """Yield the same users as JSON objects."""
    for account, balance in user_rows(store, username):
        row = UserRow.of(account, balance)
        yield {
            "username": row.username,
            "status": account.sighting.status.value,
            "is_held": account.is_held,
            "is_disabled_by_bridge": account.is_disabled_by_us,
            "quota_bytes": balance.quota_bytes,
            "panel_bytes": balance.panel_bytes,
            "external_bytes": balance.external_bytes,
            "external_raw_bytes": balance.external_raw_bytes,
            "used_bytes": balance.used_bytes,
            "left_bytes": balance.left_bytes,
            "published_limit_bytes": row.published_limit_bytes,
        }


def event_object(recorded: RecordedEvent) -> Mapping[str, object]:
    """Return an event as a JSON object."""
    event = recorded.event
    return {
        "seq": recorded.seq,
        "at": recorded.at,
        "panel": recorded.panel,
        "username": recorded.username,
        "kind": event.kind,
        "actor": event.actor,
        "text": event.text,
        "before": event.before,
        "after": event.after,
    }


def has_user(store: Store, username: str) -> bool:
    """Tell whether a user with external traffic has this public name."""
    panel, key = store.placement.place_of(username)
    return panel in store.panels and store.of(panel).accounts.has(key)


def unknown_user(store: Store, username: str) -> BridgeError:
    """Return the error for a name that no user with external traffic has, with close names."""
    names = [account.username for account, _ in user_rows(store)]
    hint = "`marzban-bridge users` lists all"
    if near := near_words(username, names, most=MOST_CLOSE):
        hint = f"did you mean {' or '.join(near)}?"
    return BridgeError(f"no user {username!r} with external traffic is known; {hint}")
