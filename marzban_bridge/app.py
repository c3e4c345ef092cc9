"""Wires a bridge together and serves it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import httpx
from fastapi import FastAPI

import marzban_bridge
from marzban_bridge.actions import Actions
from marzban_bridge.api import admin, health, operations, webhooks
from marzban_bridge.api.context import Bridge
from marzban_bridge.api.errors import install_error_handlers
from marzban_bridge.feed import CollectorFeed
from marzban_bridge.marzban import Marzban
from marzban_bridge.metrics import Metrics
from marzban_bridge.reconcile import Reconciler
from marzban_bridge.settings import Settings
from marzban_bridge.settle import Clock, Settler
from marzban_bridge.store import Store

log = logging.getLogger(__name__)


def utc_now() -> datetime:
    """Read the wall clock."""
    return datetime.now(UTC)


@contextlib.asynccontextmanager
async def open_bridge(
    settings: Settings,
    *,
    clock: Clock = utc_now,
    panel_transport: httpx.AsyncBaseTransport | None = None,
    collector_transport: httpx.AsyncBaseTransport | None = None,
) -> AsyncIterator[Bridge]:
    """Open the store and the connections, and close them at the end.

    Nothing runs by itself yet. Raises SettingsError when the panel is not configured and
    StoreError when the store cannot be used.
    """
    settings.require_panel()
    metrics = Metrics()
    store = Store(settings.store)
    panel = Marzban(
        settings.marzban_url,
        username=settings.marzban_username,
        password=settings.marzban_password,
        timeout_seconds=settings.marzban_timeout_seconds,
        transport=panel_transport,
    )
    feed = CollectorFeed(
        settings.collector_url,
        admin_key=settings.collector_admin_key,
        transport=collector_transport,
    )
    settler = Settler(
        store=store,
        panel=panel,
        enforcement=settings.enforcement,
        keeps_next_plan=settings.keeps_next_plan,
        clock=clock,
        metrics=metrics,
    )
    reconciler = Reconciler(
        store=store,
        panel=panel,
        feed=feed,
        settler=settler,
        clock=clock,
        metrics=metrics,
        pass_seconds=settings.pass_seconds,
    )
    actions = Actions(store=store, panel=panel, reconciler=reconciler, clock=clock)
    try:
        yield Bridge(
            settings=settings,
            store=store,
            panel=panel,
            feed=feed,
            reconciler=reconciler,
            actions=actions,
            metrics=metrics,
            clock=clock,
        )
    finally:
        await panel.close()
        await feed.close()
        store.close()


def create_app(
    settings: Settings,
    *,
    clock: Clock = utc_now,
    panel_transport: httpx.AsyncBaseTransport | None = None,
    collector_transport: httpx.AsyncBaseTransport | None = None,
    on_loop_failure: Callable[[BaseException], None] | None = None,
) -> FastAPI:
    """Return the bridge as an ASGI application; its lifespan runs the loop.

    A fault that the loop cannot work around (a full disk under the store, a defect) ends the loop,
    makes `/readyz` say so, and is given to `on_loop_failure`.
    """

    def note_end(loop: asyncio.Task[None], bridge: Bridge) -> None:
        error = None if loop.cancelled() else loop.exception()
        if error:
            bridge.reconciler.panel_outage.reason = f"the loop stopped: {error!r}"
            if on_loop_failure:
                on_loop_failure(error)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_bridge(
            settings,
            clock=clock,
            panel_transport=panel_transport,
            collector_transport=collector_transport,
        ) as bridge:
            app.state.bridge = bridge
            loop = asyncio.create_task(bridge.reconciler.run(), name="reconcile")
            loop.add_done_callback(lambda task: note_end(task, bridge))
            try:
                yield
            finally:
                loop.cancel()
                await asyncio.wait([loop])

    app = FastAPI(
        title="Marzban bridge",
        version=marzban_bridge.__version__,
        summary="Makes Marzban's data limit mean all traffic, its own plus external",
        lifespan=lifespan,
    )
    install_error_handlers(app)
    for module in (webhooks, admin, operations, health):
        app.include_router(module.router)
    return app
