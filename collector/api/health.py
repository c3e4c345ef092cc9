"""Routes for monitoring: liveness, readiness and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from collector.api.admission import warnings_of
from collector.api.dependencies import CollectorPart
from collector.parts import Collector
from collector.runtime.http.monitoring import answer_head, exposition

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """Whether reports can be stored, the reasons why not, and warnings."""

    status: str
    reasons: list[str] = []
    warnings: list[str] = []
    """Problems that need an operator, though reports are still stored."""


@router.get("/healthz")
async def healthz() -> Health:
    """Answer as long as the process serves requests."""
    return Health(status="ok")


@router.get("/readyz", responses={503: {"model": Health, "description": "Cannot store reports"}})
async def readyz(collector: CollectorPart) -> Response:
    """Answer 200 if reports can be stored, else 503 with the reasons."""
    reasons = _reasons(collector)
    warnings = list(collector.exporter.warnings) if collector.exporter else []
    warnings += collector.ingest.warnings
    if collector.sources.problem:
        warnings.append(collector.sources.problem)
    full_users = collector.full_users.names(now_seconds=collector.monotonic_seconds())
    if full_users:
        warnings.append(
            f"the totals of {len(full_users)} users are full, and their reports are refused with "
            "507; the log names them, and docs/alerts.md says what to do (User total full)"
        )
    if collector.subscriptions:
        warnings += collector.subscriptions.problems
    warnings += warnings_of(collector)
    health = Health(status="unready" if reasons else "ok", reasons=reasons, warnings=warnings)
    return JSONResponse(health.model_dump(), 503 if reasons else 200)


def _reasons(collector: Collector) -> list[str]:
    reasons = list(collector.ingest.problems)
    if collector.standby and collector.standby.problem:
        reasons.append(collector.standby.problem)
    backend = collector.backend
    if backend.identity() != collector.ledger_identity:
        reasons.append(
            f"the ledger {backend.name} was removed or replaced while it was open: stop the "
            "senders, and put it back from a backup before a restart"
        )
    try:
        free_bytes = backend.free_disk_bytes()
    except OSError as error:
        return [*reasons, f"the folder of {backend.name} cannot be read: {error.strerror}"]
    if free_bytes is not None and free_bytes < collector.settings.min_free_disk_bytes:
        reasons.append(
            f"only {free_bytes} bytes are free under the ledger, less than the "
            f"{collector.settings.min_free_disk_bytes} of COLLECTOR_MIN_FREE_DISK_BYTES"
        )
    return reasons


@router.get("/metrics", response_class=Response)
async def metrics(collector: CollectorPart) -> Response:
    """Return the metrics of this process in Prometheus' text format."""
    return exposition(collector.metrics.registry)


answer_head(router)
