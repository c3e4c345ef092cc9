"""What the routes for monitoring answer in every program: metrics as text, and HEAD as GET."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.routing import APIRoute
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector


def exposition(metrics: Collector) -> Response:
    """Return metrics in Prometheus' text format."""
    return Response(generate_latest(metrics), media_type=CONTENT_TYPE_PLAIN_0_0_4)


def answer_head(router: APIRouter) -> None:
    """Have every route that answers GET answer HEAD too, for probes that send it."""
    for route in list(router.routes):
        if isinstance(route, APIRoute):
            router.head(route.path, include_in_schema=False)(route.endpoint)
