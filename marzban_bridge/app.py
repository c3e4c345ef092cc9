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
from collector.influx.access import InfluxAccess
from collector.influx.client import Influx
from marzban_bridge.actions import Actions
from marzban_bridge.api import admin, confirm, dashboard, health, operations, webhooks
from marzban_bridge.api.context import Bridge
from marzban_bridge.api.errors import install_error_handlers
from marzban_bridge.feed import CollectorFeed
from marzban_bridge.lineage import panel_mark
from marzban_bridge.marzban import Marzban
from marzban_bridge.metrics import Metrics
from marzban_bridge.reconcile import Reconciler
from marzban_bridge.settings import Settings
from marzban_bridge.settle import Clock, Settler
from marzban_bridge.snapshots import Snapshots
from marzban_bridge.store import Store
from marzban_bridge.witness import Witness

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
    witness = Witness(store=store, feed=feed, clock=clock, panel=panel_mark(settings.marzban_url))
    witness.check_store()
    reconciler = Reconciler(
        store=store,
        panel=panel,
        feed=feed,
        settler=settler,
        witness=witness,
        clock=clock,
        metrics=metrics,
        pass_seconds=settings.pass_seconds,
    )
    actions = Actions(
        store=store,
        panel=panel,
        feed=feed,
        reconciler=reconciler,
        enforcement=settings.enforcement,
        clock=clock,
    )
    metrics.introduce(public_url=settings.public_url)
    metrics.watch_resets(
        pending=lambda: store.pending_resets().count,
        oldest_seconds=lambda: _oldest_reset_seconds(store, clock()),
    )
    snapshots = _snapshots(settings, store=store, clock=clock, metrics=metrics)
    try:
        yield Bridge(
            settings=settings,
            store=store,
            panel=panel,
            feed=feed,
            reconciler=reconciler,
            actions=actions,
            snapshots=snapshots,
            metrics=metrics,
            clock=clock,
        )
    finally:
        if snapshots:
            snapshots.close()
        await panel.close()
        await feed.close()
        store.close()


def _snapshots(
    settings: Settings, *, store: Store, clock: Clock, metrics: Metrics
) -> Snapshots | None:
    if not settings.influxdb_url:
        return None
    access = InfluxAccess(
        url=settings.influxdb_url,
        org=settings.influxdb_org,
        token=settings.influxdb_token,
        token_file=settings.influxdb_token_file,
    )
    return Snapshots(
        store=store,
        influx=Influx(access),
        clock=clock,
        metrics=metrics,
        heartbeat_seconds=settings.snapshot_seconds,
        raw_days=settings.influxdb_raw_days,
    )


def _oldest_reset_seconds(store: Store, now: datetime) -> float:
    since = store.pending_resets().oldest_requested_at
    return max(0.0, (now - since).total_seconds()) if since else 0.0


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
            tasks = [loop]
            if bridge.snapshots:
                tasks.append(asyncio.create_task(bridge.snapshots.run(), name="snapshots"))
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    app = FastAPI(
        title="Marzban bridge",
        version=marzban_bridge.__version__,
        summary="Makes Marzban's data limit mean all traffic, its own plus external",
        lifespan=lifespan,
    )
    install_error_handlers(app)
    for module in (webhooks, admin, operations, dashboard, confirm, health):
        app.include_router(module.router)
    return app
