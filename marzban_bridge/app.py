"""Serves a bridge: alone, or leading and following with others."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx
from fastapi import APIRouter, FastAPI
from starlette.routing import BaseRoute

import marzban_bridge
from collector.runtime.background import end_all
from collector.runtime.http.api_page import API_OPTIONS, serve_api_page
from marzban_bridge.api import (
    acceptance,
    admin,
    confirm,
    dashboard,
    health,
    operations,
    paused_actions,
    resellers,
    webhooks,
)
from marzban_bridge.api.access.callers import Callers
from marzban_bridge.api.errors import install_error_handlers
from marzban_bridge.bridge import Bridges
from marzban_bridge.clock import Clock, utc_now
from marzban_bridge.config.settings import Settings
from marzban_bridge.field_descriptions import DESCRIPTIONS
from marzban_bridge.opening import Transports, open_bridges
from marzban_bridge.reconcile.standstill import Standstill
from marzban_bridge.store.open import url_of
from marzban_bridge.store.store import Store


def create_app(
    settings: Settings,
    *,
    clock: Clock = utc_now,
    panel_transport: Transports = None,
    collector_transport: httpx.AsyncBaseTransport | None = None,
    on_loop_failure: Callable[[BaseException], None] | None = None,
) -> FastAPI:
    """Return the bridge as an ASGI application; its lifespan runs the loops.

    With a store in PostgreSQL it leads or follows; `app.state.bridges` is None while it follows. An
    error that a loop does not handle (a full disk under the store, a defect) ends all loops,
    becomes a reason in `/readyz`, and is passed to `on_loop_failure`.
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
        **API_OPTIONS,
    )
    app.state.settings, app.state.callers = settings, Callers()
    install_error_handlers(app)
    app.router.routes.extend(_routes(shows_panels=bool(settings.panels_file)))
    serve_api_page(app, DESCRIPTIONS)
    return app


@functools.cache
def _routes(*, shows_panels: bool) -> tuple[BaseRoute, ...]:
    """Return the routes, the same for each application: FastAPI is slow to build them.

    With `shows_panels` those of a panel by name are in the OpenAPI document too.
    """
    router = APIRouter()
    of_panel = (webhooks, admin, operations, resellers, acceptance, confirm)
    for module in (*of_panel, paused_actions, dashboard, health):
        router.include_router(module.router)
    for module in of_panel:
        router.include_router(
            module.router, prefix="/panels/{panel}", include_in_schema=shows_panels
        )
    return tuple(router.routes)


OnFailure = Callable[[BaseException], None] | None
Opening = Callable[..., AbstractAsyncContextManager[Bridges]]


@contextlib.asynccontextmanager
async def _alone(app: FastAPI, opening: Opening, on_loop_failure: OnFailure) -> AsyncIterator[None]:
    """Run the bridges on a store in a file, which this process alone uses."""

    def note_end(loop: asyncio.Task[None]) -> None:
        error = None if loop.cancelled() else loop.exception()
        if error:
            for bridge in app.state.bridges.by_name.values():
                bridge.reconciler.health.outage.reason = f"the loop stopped: {error!r}"
            if on_loop_failure:
                on_loop_failure(error)

    async with opening() as bridges:
        app.state.bridges = bridges
        loop = asyncio.create_task(bridges.run(), name="reconcile")
        loop.add_done_callback(note_end)
        tasks = [loop]
        if bridges.time_series:
            writing = asyncio.create_task(bridges.time_series.run(), name="time series")
            tasks.append(writing)
        try:
            yield
        finally:
            await end_all(tasks)


@contextlib.asynccontextmanager
async def _leading_or_following(
    app: FastAPI, url: str, opening: Opening, on_loop_failure: OnFailure
) -> AsyncIterator[None]:
    """Run the bridges on a store in PostgreSQL while this process holds the lease."""
    from marzban_bridge.store.postgres.leadership import Leadership  # noqa: PLC0415 - the driver is an extra

    leadership = Leadership(url)
    app.state.leadership, app.state.bridges = leadership, None

    async def lead(store: Store) -> None:
        async with opening(store=store, guard=leadership.guard) as bridges:
            app.state.bridges = bridges
            try:
                await bridges.run_all()
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
        await end_all([task])
