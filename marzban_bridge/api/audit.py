"""Records actions from dashboards and confirm pages: as an event, in a metric and in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from marzban_bridge.bridge import Bridge
from marzban_bridge.clock import Clock
from marzban_bridge.errors import BridgeError, CollectorRefusedError, PanelRefusedError
from marzban_bridge.panels.names import account_key
from marzban_bridge.quota.account import Event
from marzban_bridge.reconcile.action_names import Action

log = logging.getLogger(__name__)

MAX_TEXT_LENGTH = 500


@contextmanager
def audited(
    bridge: Bridge, clock: Clock, action: Action, *, actor: str, username: str = ""
) -> Iterator[None]:
    """Record how the action in the `with` block ends; a failure becomes an event.

    Successful actions record their own event. The event of a failure has no user name where the
    name is unknown: otherwise a caller could fill the time series with made-up names.
    """
    try:
        yield
    except BridgeError as error:
        is_refused = isinstance(error, PanelRefusedError | CollectorRefusedError)
        bridge.metrics.actions.labels(action.value, "refused" if is_refused else "failed").inc()
        text = f"{action.value} {'was refused' if is_refused else 'failed'}: {error}"
        text = " ".join(text.split())[:MAX_TEXT_LENGTH]
        log.warning("action by=%s %s", actor, text)
        about = username if bridge.store.placement.is_known(account_key(username)) else ""
        event = Event(kind="action", text=text, actor=actor)
        bridge.store.events.record(about, event, at=clock())
        raise
    bridge.metrics.actions.labels(action.value, "done").inc()
    log.info("action by=%s %s user=%r done", actor, action.value, username)
