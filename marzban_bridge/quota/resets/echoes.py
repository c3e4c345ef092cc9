"""Which webhooks are still to come of resets that are counted already: their echoes; pure.

Marzban sends a webhook some seconds to minutes after a reset of one user. A reset that was counted
before its webhook came has an echo, and several may be under way at once: of the bridge's own
reset, and of a button that polling saw. Nothing but the webhook itself takes an echo away: neither
a reset of all users, which has none, nor a panel that was accepted as it is.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from marzban_bridge.quota.account import Account, with_values

ECHO_WINDOW = timedelta(minutes=15)
"""The longest a reset's webhook was seen to need: a 30 s batch and three retries 180 s apart."""


def webhooks_received(*, was_announced: bool, is_announced_again: bool) -> int:
    """Return how many webhooks of resets came since the last evaluation; two means two or more."""
    return was_announced + is_announced_again


def echoes_to_come(account: Account, *, at: datetime) -> tuple[datetime, ...]:
    """Return until when each echo that may still come at that moment is expected."""
    latest = account.echo_until
    expected = (*account.earlier_echoes_until, *([] if latest is None else [latest]))
    return tuple(sorted(until for until in expected if until > at))


def expecting(account: Account, *, more: int, heard: int, at: datetime) -> Account:
    """Expect so many echoes more from that moment on, less the webhooks that arrived."""
    expected = (*echoes_to_come(account, at=at), *[at + ECHO_WINDOW] * more)[heard:]
    return with_values(
        account,
        earlier_echoes_until=expected[:-1],
        echo_until=expected[-1] if expected else None,
    )
