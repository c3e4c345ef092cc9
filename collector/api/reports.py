"""Routes that accept reports: `POST /v1/reports`, `POST /api/xpert/traffic-webhook`.

Both go through the same pipeline. An answer of 200 means the reports are on disk.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from fastapi import APIRouter, Request
from pydantic import BaseModel

from collector.api.dependencies import CollectorPart
from collector.api.fast_routes import FastRoute
from collector.api.pipeline import Sorted, take
from collector.api.problems import MOST_NAMED_ERRORS, FieldError, More, documented, named
from collector.api.senders import ClaimsPart
from collector.ledger import Receipt
from collector.reports.report import MAX_REPORTS_PER_REQUEST, WireReport

router = APIRouter(tags=["reports"], route_class=FastRoute)

_REF = "#/components/schemas/{name}"
(_WIRE_SCHEMA,), REPORT_COMPONENTS = msgspec.json.schema_components([WireReport], ref_template=_REF)
_ONE = {"schema": _WIRE_SCHEMA}
_ONE_OR_MANY = {
    "schema": {
        "oneOf": [
            _WIRE_SCHEMA,
            {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_REPORTS_PER_REQUEST,
                "items": _WIRE_SCHEMA,
            },
        ]
    }
}
_STATUSES = (400, 401, 408, 413, 415, 422, 429, 503, 507)


class Answer(BaseModel):
    """How many reports had which outcome; `accepted` and `duplicates` are on disk."""

    accepted: int
    duplicates: int
    ignored: int
    """Reports of zero bytes, which are not stored."""
    rejected: list[FieldError]
    more_rejected: More = 0


class OriginalAnswer(BaseModel):
    """The answer in the form of the original webhook."""

    status: Literal["success"]
    message: str


@router.post(
    "/v1/reports",
    responses=documented(*_STATUSES),
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": _ONE_OR_MANY}}
    },
)
async def take_reports(request: Request, collector: CollectorPart, claimed: ClaimsPart) -> Answer:
    """Store one report or an array of them; valid ones are stored even if others are refused."""
    sorted_, receipt = await take(request, collector, claimed)
    return answer_for(sorted_, receipt)


def answer_for(sorted_: Sorted, receipt: Receipt) -> Answer:
    """Return the answer to a request, from the outcomes of its reports."""
    refusals = sorted(sorted_.refusals, key=lambda refusal: refusal.index)
    return Answer(
        accepted=receipt.accepted,
        duplicates=receipt.duplicates,
        ignored=sorted_.ignored,
        rejected=named(refusals),
        more_rejected=max(0, len(refusals) - MOST_NAMED_ERRORS),
    )


@router.post(
    "/api/xpert/traffic-webhook",
    responses=documented(*_STATUSES),
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": _ONE}}},
)
async def take_original_report(
    request: Request, collector: CollectorPart, claimed: ClaimsPart
) -> OriginalAnswer:
    """Store one report in the original form."""
    sorted_, receipt = await take(request, collector, claimed, is_array_allowed=False)
    if sorted_.ignored:
        return OriginalAnswer(
            status="success", message="Nothing to record: the report has zero bytes"
        )
    if receipt.duplicates:
        return OriginalAnswer(status="success", message="Already recorded under this id")
    return OriginalAnswer(status="success", message="Traffic recorded successfully")
