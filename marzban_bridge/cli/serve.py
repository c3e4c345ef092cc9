"""`marzban-bridge run`: serves until told to stop."""

from __future__ import annotations

import gc
import logging
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from fastapi import FastAPI

from collector.runtime.http.server import Server, Signals
from collector.runtime.listening import listen
from marzban_bridge.cli.output import LoopFailure
from marzban_bridge.config.panels_file import PanelSettings, load_panels
from marzban_bridge.config.settings import Settings
from marzban_bridge.store.open import url_of
from marzban_bridge.store.store import Store

log = logging.getLogger(__name__)

GRACEFUL_SECONDS = 2
"""How long requests may take to end when the bridge stops: one that waits for a panel which does
not answer is cut off, so that the bridge has ended within three seconds."""


class CreateApp(Protocol):
    """Makes the application that is served: `marzban_bridge.app.create_app`."""

    def __call__(
        self, settings: Settings, *, on_loop_failure: Callable[[BaseException], None]
    ) -> FastAPI:
        """Return it; `on_loop_failure` is called with what ended the loops."""
        ...


def run(settings: Settings, create_app: CreateApp) -> int:
    """Serve until told to stop; return the exit code."""
    panels = load_panels(settings)
    with listen(settings.host, settings.port) as listener:  # first: fails before any change
        if isinstance(settings.store, Path):
            Store(settings.store).close()  # an unusable store is a one-line error, no traceback
        else:
            url_of(settings)
        return _serve(settings, panels, listener, create_app)


def server_of(app: FastAPI, settings: Settings, *, signals: Signals) -> Server:
    """Return a server of the bridge's application, within the bounds that are configured."""
    return Server(
        app,
        connections=settings.max_connections,
        read_seconds=settings.read_seconds,
        proxies=settings.forwarded_allow_ips,
        signals=signals,
        graceful_seconds=GRACEFUL_SECONDS,
    )


def _serve(
    settings: Settings,
    panels: Sequence[PanelSettings],
    listener: socket.socket,
    create_app: CreateApp,
) -> int:
    log.info(
        "bridge on http://%s:%d enforcement=%s panel=%s collector=%s store=%s webhooks=%s",
        settings.host,
        settings.port,
        settings.enforcement,
        " ".join(panel.url for panel in panels),
        settings.collector_url,
        settings.store,
        "accepted" if settings.webhook_secret else "refused: BRIDGE_WEBHOOK_SECRET is not set",
    )
    failure = LoopFailure()
    app = create_app(settings, on_loop_failure=failure)
    server_of(app, settings, signals=Signals.RETURNED_AFTER).run(sockets=[listener])
    gc.freeze()  # at its end the interpreter would look through all of it once more: 0.3 s
    return failure.exit_code
