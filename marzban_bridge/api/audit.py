"""Leaves a trace of what people ask for from dashboards and pages: an event, a count, a line."""

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
    """Watch an action be carried out; what succeeds leaves its own event.

    An event about a name that was never heard of is one about nobody: whoever tries names must not
    fill the time series with them.
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
