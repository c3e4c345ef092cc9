"""The FastAPI dependency that gives a route its collector."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from collector.service import Collector


def collector_of(request: Request) -> Collector:
    """Return the collector that serves this request."""
    collector: Collector = request.app.state.collector
    return collector


CollectorPart = Annotated[Collector, Depends(collector_of)]
