"""Routes that accept reports: `POST /v1/reports`, `POST /api/xpert/traffic-webhook`.

Both go through the same pipeline. An answer of 200 means the reports are on disk.
"""

from __future__ import annotations

import functools
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from collector.api.dependencies import CollectorPart
from collector.api.fast_routes import FastRoute
from collector.api.pipeline import Sorted, take
from collector.api.problems import MOST_NAMED_ERRORS, FieldError, More, documented, named
from collector.api.senders import ClaimsPart
from collector.ledger import Receipt
from collector.reports.report import MAX_REPORTS_PER_REQUEST, WireReport
from collector.reports.unknown_fields import MOST_UNKNOWN

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


class UnknownFieldCount(BaseModel):
    """A name that is no field of a report, how many reports have it, and what it may mean."""

    field: str
    reports: int
    did_you_mean: str | None


UnknownFields = Annotated[
    list[UnknownFieldCount],
    Field(
        exclude_if=lambda unknown: not unknown,
        description=f"At most {MOST_UNKNOWN} different ones; only there if there are any",
    ),
]


class Answer(BaseModel):
    """How many reports had which outcome; `accepted` and `duplicates` are on disk."""

    accepted: int
    duplicates: int
    ignored: int
    """Reports of zero bytes, which are not stored."""
    rejected: list[FieldError]
    more_rejected: More = 0
    unknown_fields: UnknownFields = []
    """Names in the reports that are no fields of a report; what they hold is not counted."""


class OriginalAnswer(BaseModel):
    """The answer in the form of the original webhook."""

    status: Literal["success"]
    message: str
    unknown_fields: UnknownFields = []


@router.post(
    "/v1/reports",
    response_model=Answer,
    responses=documented(*_STATUSES),
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": _ONE_OR_MANY}}
    },
)
async def take_reports(request: Request, collector: CollectorPart, claimed: ClaimsPart) -> bytes:
    """Store one report or an array of them; valid ones are stored even if others are refused."""
    return reports_answer(*await take(request, collector, claimed))


def reports_answer(sorted_: Sorted, receipt: Receipt) -> bytes:
    """Return the JSON of the answer to reports."""
    if sorted_.refusals or sorted_.unknown:
        return answer_for(sorted_, receipt).model_dump_json().encode()
    return _plain_answer(receipt.accepted, receipt.duplicates, sorted_.ignored)


@functools.lru_cache(maxsize=1024)
def _plain_answer(accepted: int, duplicates: int, ignored: int) -> bytes:
    """Return the JSON of an answer with numbers alone, as nearly all have."""
    answer = Answer(accepted=accepted, duplicates=duplicates, ignored=ignored, rejected=[])
    return answer.model_dump_json().encode()


def answer_for(sorted_: Sorted, receipt: Receipt) -> Answer:
    """Return the answer to a request, from the outcomes of its reports."""
    refusals = sorted(sorted_.refusals, key=lambda refusal: refusal.index)
    return Answer(
        accepted=receipt.accepted,
        duplicates=receipt.duplicates,
        ignored=sorted_.ignored,
        rejected=named(refusals),
        more_rejected=max(0, len(refusals) - MOST_NAMED_ERRORS),
        unknown_fields=_unknown(sorted_) if sorted_.unknown else [],
    )


def _unknown(sorted_: Sorted) -> list[UnknownFieldCount]:
    return [
        UnknownFieldCount(field=each.field, reports=each.reports, did_you_mean=each.did_you_mean)
        for each in sorted_.unknown
    ]


@router.post(
    "/api/xpert/traffic-webhook",
    response_model=OriginalAnswer,
    responses=documented(*_STATUSES),
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": _ONE}}},
)
async def take_original_report(
    request: Request, collector: CollectorPart, claimed: ClaimsPart
) -> bytes:
    """Store one report in the original form."""
    return original_answer(*await take(request, collector, claimed, is_array_allowed=False))


def original_answer(sorted_: Sorted, receipt: Receipt) -> bytes:
    """Return the JSON of the answer to a report in the original form."""
    message = "Traffic recorded successfully"
    if sorted_.ignored:
        message = "Nothing to record: the report has zero bytes"
    elif receipt.duplicates:
        message = "Already recorded under this id"
    if sorted_.unknown:
        return _original_answer(message, _unknown(sorted_))
    return _plain_original_answer(message)


@functools.lru_cache
def _plain_original_answer(message: str) -> bytes:
    return _original_answer(message, [])


def _original_answer(message: str, unknown: list[UnknownFieldCount]) -> bytes:
    answer = OriginalAnswer(status="success", message=message, unknown_fields=unknown)
    return answer.model_dump_json().encode()
