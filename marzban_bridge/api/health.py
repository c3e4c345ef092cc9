"""Is it alive, is it doing its work, what are its numbers."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import BaseModel

from marzban_bridge.api.context import BridgePart

router = APIRouter(tags=["health"])

SERVICE = "marzban-bridge"
"""By this a command line knows that it is a bridge it is about to sign in to."""


class Health(BaseModel):
    """Whether all is well, and if not, why."""

    status: str
    service: str = SERVICE
    reasons: list[str] = []
    warnings: list[str] = []
    """What does not keep the bridge from its work."""


@router.get("/healthz")
async def healthz() -> Health:
    """Answer as long as the process serves requests."""
    return Health(status="ok")


@router.get(
    "/readyz",
    response_model=Health,
    responses={503: {"model": Health, "description": "Not doing its work"}},
)
async def readyz(bridge: BridgePart) -> Response:
    """Say whether the panel and the collector are reachable and no account is held.

    Warnings are about what is only looked at: InfluxDB.
    """
    outages = (bridge.reconciler.panel_outage, bridge.reconciler.collector_outage)
    reasons = [f"{each.name}: {each.reason}" for each in outages if each.reason]
    held = bridge.store.counts()["held"]
    if bridge.store.doubt:
        reasons.append(bridge.store.doubt)
    elif held:
        reasons.append(f"{held} users are held: the ledger lost something; marzban-bridge rebase")
    warnings = []
    if bridge.snapshots and (outage := bridge.snapshots.outage).reason:
        warnings.append(f"{outage.name}: {outage.reason}")
    health = Health(status="unready" if reasons else "ok", reasons=reasons, warnings=warnings)
    return JSONResponse(health.model_dump(), 503 if reasons else 200)


@router.get("/metrics", response_class=Response)
async def metrics(bridge: BridgePart) -> Response:
    """Expose the process's numbers in Prometheus' text format."""
    body = generate_latest(bridge.metrics.registry)
    return Response(body, media_type=CONTENT_TYPE_PLAIN_0_0_4)
