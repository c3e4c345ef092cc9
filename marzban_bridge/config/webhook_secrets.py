"""Which secret a panel's webhooks come with, and what an event with it may bring about.

Each panel has its own secret, so that no panel speaks for another: the first has
BRIDGE_WEBHOOK_SECRET, a further one the `webhook_secret` of its table, or one derived from
BRIDGE_WEBHOOK_SECRET and its name. A secret that several panels have does not tell which of them
speaks: an event with it has a user looked at, and resets nobody.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from enum import Enum, auto

DERIVED_LENGTH = 40
"""Characters, of 4 bits each."""


class Sender(Enum):
    """Who sent a webhook, as far as its secret tells."""

    PANEL = auto()
    """The panel at whose path it arrived."""
    ONE_OF_SEVERAL = auto()
    """A panel that has the secret, or another one that has it too."""
    UNKNOWN = auto()


def derived(secret: str, panel: str) -> str:
    """Return a further panel's own secret; empty where there is none to derive it from."""
    if not secret:
        return ""
    text = f"webhooks of panel {panel}"
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()[:DERIVED_LENGTH]


def own_and_shared(given: Mapping[str, str | None], *, first: str) -> dict[str, tuple[str, str]]:
    """Return each panel's own secret, and the one that it may share with others; empty for none.

    `given` has what the tables of the further panels say, None where they say nothing, and `first`
    is the first panel's, which panels without one shared in earlier versions.
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
    """Tell who sent a webhook that came with a secret; takes the same time for any."""
    is_own = hmac.compare_digest(own.encode(), told.encode())
    is_shared = hmac.compare_digest(shared.encode(), told.encode())
    if own and is_own:
        return Sender.PANEL
    return Sender.ONE_OF_SEVERAL if shared and is_shared else Sender.UNKNOWN
