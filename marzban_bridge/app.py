"""Wires a bridge together and serves it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path

import httpx
from fastapi import FastAPI

import marzban_bridge
from collector.influx.access import InfluxAccess
from collector.influx.client import Influx
from marzban_bridge import bridges as together
from marzban_bridge.api import (
    acceptance,
    admin,
    confirm,
    dashboard,
    health,
    operations,
    standing_still,
    webhooks,
)
from marzban_bridge.api.access.bearers import Bearers
from marzban_bridge.api.access.sign_ins import SignInThrottle
from marzban_bridge.api.context import Bridge, Bridges, new_action_throttles
from marzban_bridge.api.errors import install_error_handlers
from marzban_bridge.config.panels_file import load_panels
from marzban_bridge.config.settings import Settings
from marzban_bridge.feed.client import CollectorFeed
from marzban_bridge.metrics import Metrics
from marzban_bridge.panels.marzban import Marzban
from marzban_bridge.panels.names import FIRST_PANEL
from marzban_bridge.panels.write_guard import WriteGuard
from marzban_bridge.reconcile.actions import Actions
from marzban_bridge.reconcile.feed_reader import Reading
from marzban_bridge.reconcile.loop import Reconciler
from marzban_bridge.reconcile.standstill import Standstill
from marzban_bridge.reconcile.trust.duplicate_names import RollCall
from marzban_bridge.reconcile.trust.panel_rebase import PanelRebase
from marzban_bridge.reconcile.trust.rollback_check import Witness
from marzban_bridge.reconcile.trust.twin_panels import TwinPanels
from marzban_bridge.reconcile.users.settler import Clock, Settler
from marzban_bridge.store.identity import panel_mark
from marzban_bridge.store.open import file_of, url_of
from marzban_bridge.store.panel_identity import check_panels
from marzban_bridge.store.store import Store
from marzban_bridge.timeseries.writer import Snapshots

log = logging.getLogger(__name__)

Transports = Mapping[str, httpx.AsyncBaseTransport] | httpx.AsyncBaseTransport | None


def utc_now() -> datetime:
    """Read the wall clock."""
    return datetime.now(UTC)


@contextlib.asynccontextmanager
async def open_bridges(
    settings: Settings,
    *,
    clock: Clock = utc_now,
    panel_transport: Transports = None,
    collector_transport: httpx.AsyncBaseTransport | None = None,
    store: Store | None = None,
    guard: WriteGuard | None = None,
    standstill: Standstill | None = None,
) -> AsyncIterator[Bridges]:
    """Open the store, unless it is given, and the connections; close what was opened at the end.

    Nothing runs by itself yet. Raises SettingsError when a panel is not configured and StoreError
    when the store cannot be used, or is of other panels. `panel_transport` replaces the network to
    the panels, for each by its name or for all; `guard` is asked before each write to one;
    `standstill` is what has the bridges stand still, for as long as the process lasts.
    """
    panels = load_panels(settings)
    standstill = standstill or Standstill()
    async with contextlib.AsyncExitStack() as stack:
        if store is None:
            store = Store(file_of(settings))
            stack.callback(store.close)
        check_panels(store, panels)
        store.configure([each.name for each in panels], shares_quotas=settings.quotas_span_panels)
        feed = CollectorFeed(
            settings.collector_url,
            admin_key=settings.collector_admin_key,
            transport=collector_transport,
        )
        stack.push_async_callback(feed.close)
        witness = Witness(
            store=store, feed=feed, clock=clock, panel=panel_mark(settings.marzban_url)
        )
        witness.check_store()
        metrics = {each.name: Metrics() for each in panels}
        first_metrics = metrics[FIRST_PANEL]
        first_metrics.introduce(
            public_url=settings.public_url, enforcement=settings.enforcement.value
        )
        first_metrics.leads.set(1)
        first_metrics.store_in_doubt.set_function(lambda: store.doubt is not None)
        snapshots = _snapshots(
            settings, store=store, clock=clock, metrics=first_metrics, standstill=standstill
        )
        if snapshots:
            stack.callback(snapshots.close)
        reconcilers: dict[str, Reconciler] = {}
        reading = Reading(
            store=store,
            feed=feed,
            witness=witness,
            reconcilers=reconcilers,
            metrics=first_metrics,
            standstill=standstill,
        )
        sign_ins, bearers, action_throttles = SignInThrottle(), Bearers(), new_action_throttles()
        bridges: dict[str, Bridge] = {}
        for each in panels:
            panel = Marzban(
                each.url,
                username=each.username,
                password=each.password,
                name=each.name,
                timeout_seconds=each.timeout_seconds,
                transport=_transport_to(each.name, panel_transport),
                guard=guard,
            )
            stack.push_async_callback(panel.close)
            books = store.of(each.name)
            settler = Settler(
                store=books,
                panel=panel,
                enforcement=settings.enforcement,
                write_seconds=2 * each.timeout_seconds,
                pass_seconds=settings.pass_seconds,
                uses_notes=settings.uses_notes,
                typed_limits=each.typed_limits,
                keeps_next_plan=settings.keeps_next_plan,
                clock=clock,
                metrics=metrics[each.name],
            )
            reconciler = reconcilers[each.name] = Reconciler(
                store=books,
                panel=panel,
                settler=settler,
                witness=witness,
                clock=clock,
                metrics=metrics[each.name],
                pass_seconds=settings.pass_seconds,
                standstill=standstill,
            )
            settler.reconsider = reading.reconsider
            settler.hurry_others = _others_consider(each.name, reconcilers)
            _watch_resets(metrics[each.name], books, clock)
            actions = Actions(
                store=books,
                panel=panel,
                feed=feed,
                reconciler=reconciler,
                enforcement=settings.enforcement,
                clock=clock,
                standstill=standstill,
            )
            bridges[each.name] = Bridge(
                settings=settings,
                panel_settings=each,
                store=books,
                panel=panel,
                feed=feed,
                reading=reading,
                reconciler=reconciler,
                actions=actions,
                panel_rebase=PanelRebase(
                    store=books, reconciler=reconciler, clock=clock, standstill=standstill
                ),
                snapshots=snapshots,
                metrics=metrics[each.name],
                clock=clock,
                sign_ins=sign_ins,
                bearers=bearers,
                action_throttles=action_throttles,
            )
        roll_call = RollCall(
            {name: each.panel for name, each in bridges.items()},
            store=store,
            standstill=standstill,
            clock=clock,
        )
        twins = TwinPanels(
            {name: each.panel for name, each in bridges.items()},
            store=store,
            clock=clock,
            metrics=metrics,
        )
        twins.on_newest = roll_call.take_newest
        for name, reconciler in reconcilers.items():
            reconciler.check_twins = functools.partial(twins.check, name)
        roll_call.on_news = lambda panel, keys: reconcilers[panel].hurry(keys)
        yield Bridges(by_name=bridges, roll_call=roll_call, standstill=standstill)


def _transport_to(panel: str, given: Transports) -> httpx.AsyncBaseTransport | None:
    return given.get(panel) if isinstance(given, Mapping) else given


def _others_consider(panel: str, reconcilers: Mapping[str, Reconciler]) -> Callable[[str], None]:
    """Return what tells the other panels' loops of a name that may concern them now."""

    def tell(key: str) -> None:
        for name, reconciler in reconcilers.items():
            if name != panel:
                reconciler.consider([key])

    return tell


def _watch_resets(metrics: Metrics, store: Store, clock: Clock) -> None:
    metrics.watch_resets(
        pending=lambda: store.accounts.pending_resets().count,
        oldest_seconds=lambda: _oldest_reset_seconds(store, clock()),
    )


def _snapshots(
    settings: Settings, *, store: Store, clock: Clock, metrics: Metrics, standstill: Standstill
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
        standstill=standstill,
    )


def _oldest_reset_seconds(store: Store, now: datetime) -> float:
    since = store.accounts.pending_resets().oldest_requested_at
    return max(0.0, (now - since).total_seconds()) if since else 0.0


def create_app(
    settings: Settings,
    *,
    clock: Clock = utc_now,
    panel_transport: Transports = None,
    collector_transport: httpx.AsyncBaseTransport | None = None,
    on_loop_failure: Callable[[BaseException], None] | None = None,
) -> FastAPI:
    """Return the bridge as an ASGI application; its lifespan runs the loops.

    With a store in PostgreSQL it leads or follows; `app.state.bridges` is None while it follows. A
    fault that a loop cannot work around (a full disk under the store, a defect) ends all of them,
    makes `/readyz` say so, and is given to `on_loop_failure`.
    """
    opening = functools.partial(
        open_bridges,
        settings,
        clock=clock,
        panel_transport=panel_transport,
        collector_transport=collector_transport,
        standstill=Standstill(),
    )

    def lifespan(app: FastAPI) -> AbstractAsyncContextManager[None]:
        if isinstance(settings.store, Path):
            return _alone(app, opening, on_loop_failure)
        return _leading_or_following(app, url_of(settings), opening, on_loop_failure)

    app = FastAPI(
        title="Marzban bridge",
        version=marzban_bridge.__version__,
        summary="Makes Marzban's data limit mean all traffic, its own plus external",
        lifespan=lifespan,
        redirect_slashes=False,  # a redirect would say http:// behind a proxy with TLS
    )
    install_error_handlers(app)
    of_process = (standing_still, dashboard, health)
    for module in (webhooks, admin, operations, acceptance, confirm, *of_process):
        app.include_router(module.router)
    for module in (webhooks, admin, operations, acceptance, confirm):
        app.include_router(
            module.router, prefix="/panels/{panel}", include_in_schema=bool(settings.panels_file)
        )
    return app


OnFailure = Callable[[BaseException], None] | None
Opening = Callable[..., AbstractAsyncContextManager[Bridges]]


@contextlib.asynccontextmanager
async def _alone(app: FastAPI, opening: Opening, on_loop_failure: OnFailure) -> AsyncIterator[None]:
    """Do the work of a bridge whose store is its own."""

    def note_end(loop: asyncio.Task[None]) -> None:
        error = None if loop.cancelled() else loop.exception()
        if error:
            for bridge in app.state.bridges.by_name.values():
                bridge.reconciler.panel_outage.reason = f"the loop stopped: {error!r}"
            if on_loop_failure:
                on_loop_failure(error)

    async with opening() as bridges:
        app.state.bridges = bridges
        app.state.bridge = bridges.first
        loop = asyncio.create_task(together.run(bridges), name="reconcile")
        loop.add_done_callback(note_end)
        tasks = [loop]
        if snapshots := bridges.first.snapshots:
            tasks.append(asyncio.create_task(snapshots.run(), name="snapshots"))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


@contextlib.asynccontextmanager
async def _leading_or_following(
    app: FastAPI, url: str, opening: Opening, on_loop_failure: OnFailure
) -> AsyncIterator[None]:
    """Do the work of a bridge whenever this one leads among those of its store."""
    from marzban_bridge.store.postgres.leadership import Leadership  # noqa: PLC0415 - the driver is an extra

    leadership = Leadership(url)
    app.state.leadership, app.state.bridges = leadership, None

    async def lead(store: Store) -> None:
        async with opening(store=store, guard=leadership.guard) as bridges:
            app.state.bridges = bridges
            try:
                await together.run_all(bridges)
            finally:
                app.state.bridges = None

    def note_end(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error:
            leadership.problem = f"the loop stopped: {error!r}"
            if on_loop_failure:
                on_loop_failure(error)

    task = asyncio.create_task(leadership.run(lead), name="leadership")
    task.add_done_callback(note_end)
    try:
        yield
    finally:
        await leadership.guard.drain()  # so that the lease can be given back at once
        task.cancel()
        await asyncio.wait([task])
