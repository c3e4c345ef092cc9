"""What every route needs, and how it gets it from the application."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from marzban_bridge.actions import Actions
from marzban_bridge.api.sign_ins import SignInThrottle
from marzban_bridge.feed import CollectorFeed
from marzban_bridge.marzban import Marzban
from marzban_bridge.metrics import Metrics
from marzban_bridge.reconcile import Reconciler
from marzban_bridge.settings import Settings
from marzban_bridge.settle import Clock
from marzban_bridge.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """The wired parts of one running bridge."""

    settings: Settings
    store: Store
    panel: Marzban
    feed: CollectorFeed
    reconciler: Reconciler
    actions: Actions
    metrics: Metrics
    clock: Clock
    sign_ins: SignInThrottle = field(default_factory=SignInThrottle)


def bridge_of(request: Request) -> Bridge:
    """Return the bridge that serves this request."""
    bridge: Bridge = request.app.state.bridge
    return bridge


BridgePart = Annotated[Bridge, Depends(bridge_of)]
