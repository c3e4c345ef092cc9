"""Builds the collector as a web application: its routes and its background tasks."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import httpx
from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute

import collector
from collector.api import (
    contacts,
    corrections,
    health,
    maintenance,
    original_statistics,
    readers,
    reports,
    sources,
    usage,
)
from collector.api.fast_routes import FastRoutesApp
from collector.api.problems import install_problem_handlers
from collector.contacts import keep_contacts, store_contacts
from collector.direct_intake import DirectIntake
from collector.field_descriptions import DESCRIPTIONS, describe_senders
from collector.ledger.ports import EmbeddedLedger
from collector.ledger_gauges import keep_fresh
from collector.runtime.background import end_all
from collector.runtime.http.api_page import API_OPTIONS, serve_api_page
from collector.runtime.http.server import Server, Signals
from collector.runtime.wall_clock import wall_clock_millis
from collector.service import open_collector
from collector.settings import Settings

log = logging.getLogger(__name__)

GRACEFUL_SECONDS = 10
_FAST = (reports, sources)


def create_app(
    settings: Settings,
    *,
    now_millis: Callable[[], int] = wall_clock_millis,
    monotonic_seconds: Callable[[], float] = time.monotonic,
    panel_transport: httpx.AsyncBaseTransport | None = None,
    embedded_ledger: EmbeddedLedger | None = None,
    on_damage: Callable[[Exception], None] = lambda _: None,
) -> FastAPI:
    """Return the collector as an ASGI application; its lifespan opens and closes the ledger.

    `embedded_ledger` and `on_damage` are those of `open_collector`.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_collector(
            settings,
            now_millis=now_millis,
            monotonic_seconds=monotonic_seconds,
            panel_transport=panel_transport,
            embedded_ledger=embedded_ledger,
            on_damage=on_damage,
        ) as opened:
            app.state.collector = opened
            tasks = [
                _in_background(keep_fresh(opened), name="gauges"),
                _in_background(opened.corrections.run(), name="corrections"),
            ]
            tasks.append(_in_background(keep_contacts(opened), name="contacts"))
            if opened.standby:
                tasks.append(_in_background(opened.standby.run(), name="standby"))
            if opened.exporter:
                tasks.append(_in_background(opened.exporter.run(), name="export"))
            try:
                yield
            finally:
                await end_all(tasks)
                await store_contacts(opened, is_last=True)

    app = FastRoutesApp(
        title="Traffic collector",
        version=collector.__version__,
        summary="Takes traffic reports and keeps exact, durable totals",
        lifespan=lifespan,
        **API_OPTIONS,
    )
    install_problem_handlers(app)
    app.router.routes.extend(_routes())
    for module in _FAST:
        app.serve_fast(module.router)
    app.openapi = lambda: _describe(app)  # type: ignore[method-assign]  # FastAPI's documented way to extend the document
    serve_api_page(app, DESCRIPTIONS)
    return app


@functools.cache
def _routes() -> tuple[BaseRoute, ...]:
    """Return the routes, the same for each application: FastAPI is slow to build them."""
    router = APIRouter()
    others = (usage, maintenance, corrections, contacts, readers, original_statistics, health)
    for module in (*_FAST, *others):
        router.include_router(module.router)
    return tuple(router.routes)


def server_of(
    app: FastAPI,
    settings: Settings,
    *,
    signals: Signals = Signals.RAISED_AGAIN,
    freezes_heap: bool = False,
) -> Server:
    """Return the server of a collector's application.

    `freezes_heap` moves all objects out of the garbage collector's reach once the application has
    started; only for a process that runs nothing else.
    """

    def answer_waiting_readers() -> None:
        if opened := getattr(app.state, "collector", None):
            opened.ingest.commits.close()

    return Server(
        app,
        connections=settings.max_connections,
        read_seconds=settings.read_seconds,
        proxies=settings.forwarded_allow_ips,
        graceful_seconds=GRACEFUL_SECONDS,
        signals=signals,
        on_stop=answer_waiting_readers,
        freezes_heap=freezes_heap,
        direct_routes=direct_routes(app),
    )


def direct_routes(app: FastAPI) -> dict[bytes, DirectIntake]:
    """Return, by path, the routes that take plain reports from the protocol of a server."""
    many = DirectIntake(app, reports.reports_answer)
    one = DirectIntake(app, reports.original_answer, is_array_allowed=False)
    return {b"/v1/reports": many, b"/api/xpert/traffic-webhook": one}


def _in_background(work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
    """Run a coroutine as a background task; an unexpected error in it is logged."""

    def note_end(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            log.critical("%s stopped: %r; restart the collector", name, error, exc_info=error)

    task = asyncio.create_task(work, name=name)
    task.add_done_callback(note_end)
    return task


def _describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, with the schemas of the types that decode reports."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes
        )
        document["components"]["schemas"].update(reports.REPORT_COMPONENTS)
        describe_senders(document)
        app.openapi_schema = document
    return app.openapi_schema
