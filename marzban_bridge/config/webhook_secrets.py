"""Where a panel sends its webhooks, their secret, and what an event with that secret may cause.

Each panel has its own secret, so that one panel cannot send events for another. The first panel
has BRIDGE_WEBHOOK_SECRET; each other one has the `webhook_secret` of its table, or one derived
from BRIDGE_WEBHOOK_SECRET and its name. A secret that several panels have does not tell which of
them sent an event: such an event puts the user in the work queue, and is not taken for a reset.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from enum import Enum, auto

from marzban_bridge.panels.names import FIRST_PANEL

DERIVED_LENGTH = 40
"""Characters, of 4 bits each."""


class Sender(Enum):
    """Which panel sent a webhook, as far as its secret tells."""

    PANEL = auto()
    """The panel whose path the webhook was sent to."""
    ONE_OF_SEVERAL = auto()
    """One of several panels that have this secret."""
    UNKNOWN = auto()


def webhook_path(panel: str) -> str:
    """Return the path to which a panel sends its webhooks."""
    prefix = "" if panel == FIRST_PANEL else f"/panels/{panel}"
    return f"{prefix}/webhooks/marzban"


def derived(secret: str, panel: str) -> str:
    """Return the secret derived for a further panel; empty if `secret` is."""
    if not secret:
        return ""
    text = f"webhooks of panel {panel}"
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()[:DERIVED_LENGTH]


def own_and_shared(given: Mapping[str, str | None], *, first: str) -> dict[str, tuple[str, str]]:
    """Return each panel's own secret and the one it may share with others; each may be empty.

    `given` maps each further panel to the secret of its table, None where it has none. `first` is
    the first panel's secret; earlier versions used it for panels without one.
    """
    said = [first, *(secret for secret in given.values() if secret is not None)]
    found = {}
    for panel, secret in given.items():
        if secret is None:
            found[panel] = derived(first, panel), first
        elif secret and said.count(secret) > 1:
            found[panel] = derived(first, panel), secret
        else:
            found[panel] = secret, ""
    return found


def sender_of(told: str, *, own: str, shared: str) -> Sender:
    """Tell who sent a webhook with the secret `told`; takes the same time for any value."""
    is_own = hmac.compare_digest(own.encode(), told.encode())
    is_shared = hmac.compare_digest(shared.encode(), told.encode())
    if own and is_own:
        return Sender.PANEL
    return Sender.ONE_OF_SEVERAL if shared and is_shared else Sender.UNKNOWN
