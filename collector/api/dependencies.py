"""The FastAPI dependency that gives a route its collector."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from collector.parts import Collector


def collector_of(request: Request) -> Collector:
    """Return the collector that serves this request."""
    collector: Collector = request.app.state.collector
    return collector


async def _collector(request: Request) -> Collector:
    return collector_of(request)  # a coroutine: FastAPI calls plain functions in a thread


CollectorPart = Annotated[Collector, Depends(_collector)]
