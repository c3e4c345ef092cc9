"""What every route needs, and how it gets it from the application."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from marzban_bridge.actions import Action, Actions
from marzban_bridge.api.sign_ins import SignInThrottle
from marzban_bridge.api.throttle import Throttle
from marzban_bridge.feed import CollectorFeed
from marzban_bridge.marzban import Marzban
from marzban_bridge.metrics import Metrics
from marzban_bridge.reconcile import Reconciler
from marzban_bridge.settings import Settings
from marzban_bridge.settle import Clock
from marzban_bridge.snapshots import Snapshots
from marzban_bridge.store import Store


def _action_throttles() -> Mapping[Action, Throttle]:
    return {
        Action.RESET: Throttle(burst=20, refill_seconds=3),
        Action.RESET_ALL: Throttle(burst=3, refill_seconds=60),
        Action.CLEANUP: Throttle(burst=3, refill_seconds=60),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """The wired parts of one running bridge."""

    settings: Settings
    store: Store
    panel: Marzban
    feed: CollectorFeed
    reconciler: Reconciler
    actions: Actions
    snapshots: Snapshots | None
    """None when no InfluxDB is configured."""
    metrics: Metrics
    clock: Clock
    sign_ins: SignInThrottle = field(default_factory=SignInThrottle)
    action_throttles: Mapping[Action, Throttle] = field(default_factory=_action_throttles)
    """How often one Grafana login may ask for what."""


def bridge_of(request: Request) -> Bridge:
    """Return the bridge that serves this request."""
    bridge: Bridge = request.app.state.bridge
    return bridge


BridgePart = Annotated[Bridge, Depends(bridge_of)]
