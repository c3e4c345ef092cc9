"""Turns refusals and errors into HTTP answers (`Problem`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from math import ceil
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from collector.api.dependencies import collector_of
from collector.contacts import note_refused
from collector.errors import (
    CollectorError,
    DiskFullError,
    IdentityUnknownError,
    NotStoredError,
    PanelUnavailableError,
    TooManyLookupsError,
)
from collector.reports.contacts import Reason
from collector.reports.decode import BodyTooLargeError, UnreadableBodyError
from collector.reports.report import Refusal
from collector.runtime.http import answer_mark
from collector.runtime.http.problem import ProblemDetails, ProblemResponse, nothing_at
from collector.runtime.http.problem_fields import details_of

RETRY_AFTER_SECONDS = 2
MOST_NAMED_ERRORS = 100
"""The most errors that one answer names; further ones are only counted."""


class FieldError(BaseModel):
    """One field at fault; `index` is the report's place in an array, null outside of reports."""

    index: int | None
    field: str
    reason: str


More = Annotated[
    int,
    Field(
        exclude_if=lambda count: count == 0,
        description=f"How many more there are than the {MOST_NAMED_ERRORS} that are named",
    ),
]


class Problem(ProblemDetails):
    """An error (RFC 9457), with the fields at fault."""

    errors: list[FieldError] = Field([], description="The fields at fault, if any are")
    more_errors: More = 0


class ProblemError(CollectorError):
    """An HTTP answer other than success; raised by routes."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        refusals: Sequence[Refusal] = (),
        retry_after_seconds: float | None = None,
        refused_for: Reason | None = None,
        once_of: str = "",
    ) -> None:
        super().__init__(detail)
        self.refused_for = refused_for
        self.once_of = once_of
        """The reporter whose key it once was."""
        self.status = status
        self.refusals = refusals
        self.problem = Problem(
            **details_of(status),
            detail=detail,
            errors=named(refusals),
            more_errors=max(0, len(refusals) - MOST_NAMED_ERRORS),
        )
        self.retry_after_seconds = retry_after_seconds


def named(refusals: Sequence[Refusal]) -> list[FieldError]:
    """Return the first refusals as the `errors` of an answer."""
    return [
        FieldError(index=each.index, field=each.field, reason=each.reason)
        for each in refusals[:MOST_NAMED_ERRORS]
    ]


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the given statuses for a route's OpenAPI entry."""
    return {status: {"model": Problem, "description": _MEANING[status]} for status in statuses}


_MEANING = {
    400: "The body or the request cannot be read",
    401: "Not signed with a valid key or token",
    403: "This server has no COLLECTOR_ADMIN_KEY, or the key may not do that",
    404: "Not found: a name with line breaks, for example",
    408: "The body takes too long to arrive",
    413: "The body is too large",
    415: "The content encoding is not supported",
    422: "Refused; `errors` names the fields",
    429: "Too many requests; see Retry-After",
    503: "Not stored or not verified now; see Retry-After",
    507: "The disk is full, or the user's total is at its maximum; nothing was stored",
}


def install_problem_handlers(app: FastAPI) -> None:
    """Register handlers that answer every expected error as a `Problem`."""

    @app.exception_handler(CollectorError)
    async def answer_error(request: Request, error: CollectorError) -> JSONResponse:  # noqa: ARG001 - the signature is FastAPI's
        return answer_of(problem_of(error))

    @app.exception_handler(HTTPException)
    async def answer_routing(request: Request, error: HTTPException) -> JSONResponse:
        detail = str(error.detail)
        if error.status_code == 404 and detail == HTTPStatus.NOT_FOUND.phrase:
            detail = nothing_at(request.url.path)
        if error.status_code == 404 and request.method == "POST":
            # It may be a sender whose address is misspelt. Its key may be in the path.
            address = request.client.host if request.client else ""
            note_refused(collector_of(request), address, Reason.PATH)
        if error.status_code == 404 and request.url.path.endswith("/"):
            detail = "there is nothing at this path; leave out the slash at its end"
        problem = Problem(**details_of(error.status_code), detail=detail)
        return ProblemResponse(problem.model_dump(), error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def answer_validation(request: Request, error: RequestValidationError) -> JSONResponse:  # noqa: ARG001 - the signature is FastAPI's
        faults = {str(each["loc"][-1]): str(each["msg"]).lower() for each in error.errors()}
        return answer_of(refused_request(faults))


def refused_request(faults: Mapping[str, str]) -> ProblemError:
    """Return a 422 for parameters at fault, given with their reasons."""
    problem = ProblemError(422, "the request has invalid parameters")
    problem.problem.errors = [
        FieldError(index=None, field=field, reason=reason) for field, reason in faults.items()
    ]
    return problem


def answer_of(error: ProblemError) -> JSONResponse:
    """Return the HTTP answer of a ProblemError."""
    headers = {answer_mark.HEADER: answer_mark.VALUE}
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(max(1, ceil(error.retry_after_seconds)))
    if error.status == 408:
        headers["connection"] = "close"
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return ProblemResponse(error.problem.model_dump(), error.status, headers)


def problem_of(error: Exception) -> ProblemError:
    """Return the ProblemError for any error."""
    match error:
        case ProblemError():
            return error
        case UnreadableBodyError():
            return ProblemError(400, str(error))
        case BodyTooLargeError():
            return ProblemError(413, str(error))
        case IdentityUnknownError():
            return ProblemError(401, str(error), refused_for=Reason.SUBSCRIPTION)
        case TooManyLookupsError():
            return ProblemError(429, str(error), retry_after_seconds=error.wait_seconds)
        case DiskFullError():
            return ProblemError(507, str(error))
        case NotStoredError() | PanelUnavailableError():
            return ProblemError(503, str(error), retry_after_seconds=RETRY_AFTER_SECONDS)
        case _:
            return ProblemError(500, "internal error; see the collector's log")
