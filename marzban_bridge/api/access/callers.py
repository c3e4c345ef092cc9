"""Rate limits and warnings about callers; they last as long as the process, across leadership."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from collector.runtime.rate_limit import RateLimit
from marzban_bridge.api.access.bearers import Bearers
from marzban_bridge.api.access.sign_ins import SignInThrottle
from marzban_bridge.reconcile.action_names import Action

log = logging.getLogger(__name__)


def new_action_throttles() -> Mapping[Action, RateLimit]:
    """Return a rate limit per login for each action."""
    return {
        Action.RESET: RateLimit(per_second=1 / 3, burst=20),
        Action.RESET_ALL: RateLimit(per_second=1 / 60, burst=3),
        Action.CLEANUP: RateLimit(per_second=1 / 60, burst=3),
    }


class WebhookWarnings:
    """Warnings about panels' webhooks since the process began, by panel."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def of(self, panel: str) -> str | None:
        """Return the warning about a panel's webhooks, or None."""
        return self._texts.get(panel)

    def note_shared_secret(self, panel: str) -> None:
        """Record that the panel sends a secret that other panels have too."""
        if panel not in self._texts:
            self._texts[panel] = (
                f"its webhooks carry a secret that other panels have too, so users are evaluated "
                f"on them, but no reset is taken from them: set WEBHOOK_SECRET in the panel's "
                f".env to what `marzban-bridge panels webhook {panel}` prints"
            )
            log.warning("panel %s: %s", panel, self._texts[panel])


@dataclass(frozen=True, slots=True, kw_only=True)
class Callers:
    """Refused tokens and sign-ins by address, and rate limits of actions by login."""

    sign_ins: SignInThrottle = field(default_factory=SignInThrottle)
    bearers: Bearers = field(default_factory=Bearers)
    action_throttles: Mapping[Action, RateLimit] = field(default_factory=new_action_throttles)
    """A rate limit per Grafana login for each action."""
    webhook_warnings: WebhookWarnings = field(default_factory=WebhookWarnings)
