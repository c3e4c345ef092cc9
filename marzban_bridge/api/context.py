"""What every route needs, and how it gets it from the application."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, HTTPException, Request

from collector.runtime.rate_limit import RateLimit
from marzban_bridge.api.access.bearers import Bearers
from marzban_bridge.api.access.sign_ins import SignInThrottle
from marzban_bridge.config.panels_file import PanelSettings
from marzban_bridge.config.settings import Settings
from marzban_bridge.errors import FollowingError
from marzban_bridge.feed.client import CollectorFeed
from marzban_bridge.metrics import Metrics
from marzban_bridge.panels.marzban import Marzban
from marzban_bridge.panels.names import FIRST_PANEL
from marzban_bridge.reconcile.actions import Action, Actions
from marzban_bridge.reconcile.feed_reader import Reading
from marzban_bridge.reconcile.loop import Reconciler
from marzban_bridge.reconcile.standstill import Standstill
from marzban_bridge.reconcile.trust.duplicate_names import RollCall
from marzban_bridge.reconcile.trust.panel_rebase import PanelRebase
from marzban_bridge.reconcile.users.settler import Clock
from marzban_bridge.store.store import Store
from marzban_bridge.timeseries.writer import Snapshots

if TYPE_CHECKING:  # it needs the driver, which is an extra
    from marzban_bridge.store.postgres.leadership import Leadership


log = logging.getLogger(__name__)


def new_action_throttles() -> Mapping[Action, RateLimit]:
    """Return how often one login may ask for what."""
    return {
        Action.RESET: RateLimit(per_second=1 / 3, burst=20),
        Action.RESET_ALL: RateLimit(per_second=1 / 60, burst=3),
        Action.CLEANUP: RateLimit(per_second=1 / 60, burst=3),
    }


class WebhookState:
    """What one panel's webhooks have shown since the start."""

    def __init__(self) -> None:
        self.warning: str | None = None

    def note_shared_secret(self, panel: str) -> None:
        """Remember that the panel sends a secret that other panels have, too."""
        if self.warning is None:
            self.warning = (
                f"its webhooks come with a secret that is not its own, so that they only have "
                f"users looked at, and tell of no reset: set WEBHOOK_SECRET in the panel's .env to "
                f"what `marzban-bridge panels webhook {panel}` says"
            )
            log.warning("panel %s: %s", panel, self.warning)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """The wired parts of a running bridge, as they concern one panel."""

    settings: Settings
    panel_settings: PanelSettings
    store: Store
    panel: Marzban
    feed: CollectorFeed
    reading: Reading
    reconciler: Reconciler
    actions: Actions
    panel_rebase: PanelRebase
    snapshots: Snapshots | None
    """None when no InfluxDB is configured."""
    metrics: Metrics
    clock: Clock
    webhook_state: WebhookState = field(default_factory=WebhookState)
    sign_ins: SignInThrottle = field(default_factory=SignInThrottle)
    bearers: Bearers = field(default_factory=Bearers)
    action_throttles: Mapping[Action, RateLimit] = field(default_factory=new_action_throttles)
    """How often one Grafana login may ask for what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridges:
    """One process's bridges, one for each panel: on one store, one feed and one InfluxDB."""

    by_name: Mapping[str, Bridge]
    """In the order in which names are looked for in them."""
    roll_call: RollCall
    standstill: Standstill

    @property
    def first(self) -> Bridge:
        """The bridge of the panel of `MARZBAN_URL`."""
        return self.by_name[FIRST_PANEL]

    def find(self, name: str) -> tuple[Bridge, str]:
        """Return whose user a name is, as it is reported and shown in dashboards, and its name.

        A name alone is a user of the panel for which what is reported of it counts.
        """
        panel, key = self.first.store.placement.place_of(name)
        if panel in self.by_name:
            return self.by_name[panel], key
        return self.first, name


def bridge_of(request: Request) -> Bridge:
    """Return the bridge of the panel that a request names, else of the first; 404 for no panel."""
    bridges = bridges_of(request)
    name = request.path_params.get("panel")
    if name is None:
        return bridges.first
    if bridge := bridges.by_name.get(name):
        return bridge
    raise HTTPException(404, f"there is no panel {name!r}")


def user_of(request: Request, username: str) -> tuple[Bridge, str]:
    """Return whose user a name in a request's path is, and the name it has there.

    Without a panel in the path it is a name as it is reported and shown in dashboards.
    """
    if "panel" in request.path_params:
        return bridge_of(request), username
    return bridges_of(request).find(username)


def bridges_of(request: Request) -> Bridges:
    """Return the bridges that this process serves; FollowingError while another one leads."""
    bridges: Bridges | None = request.app.state.bridges
    if bridges is None:
        raise FollowingError(
            f"{following(request.app.state.leadership)}; nothing was done here. Where both were "
            "tried, the one that leads could not be reached or could not do it now"
        )
    return bridges


def following(leadership: Leadership) -> str:
    """Say whom this process follows."""
    if leadership.leader:
        return f"this bridge follows {leadership.leader}, which leads"
    if leadership.problem:
        return f"this bridge follows, and does not know whom: {leadership.problem}"
    return "this bridge follows, and nobody leads just now"


BridgePart = Annotated[Bridge, Depends(bridge_of)]
BridgesPart = Annotated[Bridges, Depends(bridges_of)]
