"""What the process remembers of who calls it; the same before and after another bridge led."""

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
    """Return how often one login may ask for what."""
    return {
        Action.RESET: RateLimit(per_second=1 / 3, burst=20),
        Action.RESET_ALL: RateLimit(per_second=1 / 60, burst=3),
        Action.CLEANUP: RateLimit(per_second=1 / 60, burst=3),
    }


class WebhookWarnings:
    """What is odd about panels' webhooks, by panel, since the process began."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def of(self, panel: str) -> str | None:
        """Return what is odd about a panel's webhooks; None for nothing."""
        return self._texts.get(panel)

    def note_shared_secret(self, panel: str) -> None:
        """Remember that the panel sends a secret that other panels have, too."""
        if panel not in self._texts:
            self._texts[panel] = (
                f"its webhooks come with a secret that is not its own, so that they only have "
                f"users looked at, and tell of no reset: set WEBHOOK_SECRET in the panel's .env to "
                f"what `marzban-bridge panels webhook {panel}` says"
            )
            log.warning("panel %s: %s", panel, self._texts[panel])


@dataclass(frozen=True, slots=True, kw_only=True)
class Callers:
    """Who was refused, and how often what was asked for."""

    sign_ins: SignInThrottle = field(default_factory=SignInThrottle)
    bearers: Bearers = field(default_factory=Bearers)
    action_throttles: Mapping[Action, RateLimit] = field(default_factory=new_action_throttles)
    """How often one Grafana login may ask for what."""
    webhook_warnings: WebhookWarnings = field(default_factory=WebhookWarnings)
