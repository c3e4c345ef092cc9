"""Routes for liveness (`/healthz`), readiness (`/readyz`) and metrics (`/metrics`)."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from collector.runtime.http.monitoring import answer_head, exposition
from marzban_bridge.api.answers import SERVICE
from marzban_bridge.api.context import bridges_of, callers_of, following
from marzban_bridge.metrics import FOLLOWING, Exposition

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """Readiness, with the reasons against it."""

    status: str
    service: str = SERVICE
    reasons: list[str] = []
    warnings: list[str] = []
    """Problems that do not stop limits from being enforced."""
    panels: dict[str, str] = {}
    """By panel, its kind and version, as at the last check."""
    enforcement: str | None = None
    """BRIDGE_ENFORCEMENT; `observe` changes nothing in the panel."""


@router.get("/healthz")
async def healthz() -> Health:
    """Answer 200 as long as the process serves requests."""
    return Health(status="ok")


@router.get(
    "/readyz",
    response_model=Health,
    responses={503: {"model": Health, "description": "Not ready; `reasons` says why"}},
)
async def readyz(request: Request) -> Response:
    """Answer 200 if panels and collector are reachable, no account is held, no panel is suspended.

    A bridge that follows is not ready, and names the one that leads.

    Warnings are about what does not stop other users' limits: InfluxDB, names on two panels, a
    user who is set aside.
    """
    if request.app.state.bridges is None:
        reason = following(request.app.state.leadership)
        return JSONResponse(Health(status="following", reasons=[reason]).model_dump(), 503)
    bridges = bridges_of(request)
    outages = [
        *(bridge.reconciler.health.outage for bridge in bridges.by_name.values()),
        bridges.feed_reader.outage,
    ]
    webhook_warnings = callers_of(request).webhook_warnings
    reasons = [f"{each.name}: {each.reason}" for each in outages if each.reason]
    reasons += [
        text for bridge in bridges.by_name.values() if (text := bridge.store.suspension.text)
    ]
    held = sum(bridge.store.counts()["held"] for bridge in bridges.by_name.values())
    if text := bridges.standstill.reason:
        reasons.append(text)
    if bridges.store.suspended:
        reasons.append(bridges.store.suspended)
    elif held:
        reasons.append(
            f"{held} users are held, mostly because the ledger lost reports: marzban-bridge "
            "events says why, and marzban-bridge rebase ends it"
        )
    warnings = [
        f"{bridge.reconciler.health.outage.name}: {warning}"
        for bridge in bridges.by_name.values()
        if bridge.reconciler.health.last_check
        for warning in bridge.reconciler.health.last_check.warnings
    ]
    warnings += [
        f"{loop.health.outage.name}: {text}"
        for loop in (bridge.reconciler for bridge in bridges.by_name.values())
        for text in (
            *loop.health.stopped_admins.warnings,
            *loop.resellers.warnings,
            loop.set_aside.warning,
        )
        if text
    ]
    warnings += [
        f"{bridge.reconciler.health.outage.name}: {text}"
        for name, bridge in bridges.by_name.items()
        if (text := webhook_warnings.of(name))
    ]
    if bridges.time_series and (outage := bridges.time_series.outage).reason:
        warnings.append(f"{outage.name}: {outage.reason}")
    if (
        ambiguous_names := bridges.store.duplicate_names.count_ambiguous()
    ) and not bridges.settings.quotas_span_panels:
        warnings.append(
            f"{ambiguous_names} names are reported without a panel's and are users of several "
            "panels: each is charged to one of them; see marzban-bridge events, "
            "docs/several-panels.md"
        )
    health = Health(
        status="unready" if reasons else "ok",
        reasons=reasons,
        warnings=warnings,
        panels={
            name: bridge.reconciler.health.last_check.panel
            for name, bridge in bridges.by_name.items()
            if bridge.reconciler.health.last_check
        },
        enforcement=bridges.settings.enforcement.value,
    )
    return JSONResponse(health.model_dump(), 503 if reasons else 200)


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format; a follower has only `bridge_leads`."""
    if request.app.state.bridges is None:
        return exposition(FOLLOWING)
    by_name = bridges_of(request).by_name
    return exposition(Exposition({name: each.metrics for name, each in by_name.items()}))


answer_head(router)
