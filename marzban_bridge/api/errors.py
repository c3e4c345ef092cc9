"""Maps the bridge's errors to HTTP answers that say what to do."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from collector.runtime.http.problem import ProblemDetails, nothing_at, problem_answer
from marzban_bridge.errors import (
    BridgeError,
    CollectorRefusedError,
    CollectorUnavailableError,
    FollowingError,
    NotThePanelError,
    ObservingError,
    PanelError,
    PanelLoginError,
    PanelRefusedError,
    PanelSuspendedError,
    PanelUnavailableError,
    PausedError,
    ReleasedError,
    StoreSuspendedError,
    UnknownResellerError,
)

RETRY_AFTER_SECONDS = 5


class Problem(ProblemDetails):
    """The body of an error (RFC 9457)."""


DOCUMENTED: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The request cannot be read"},
    401: {"model": Problem, "description": "The caller is not authenticated"},
    422: {"model": Problem, "description": "Refused; the detail names the field"},
    503: {"model": Problem, "description": "The panel or the collector is unavailable; try again"},
}
FOR_ADMINS: dict[int | str, dict[str, Any]] = {
    **DOCUMENTED,
    403: {"model": Problem, "description": "The caller may not do that"},
    404: {"model": Problem, "description": "There is no such user or admin"},
    429: {"model": Problem, "description": "Too many unknown tokens; see Retry-After"},
    502: {"model": Problem, "description": "The panel or the collector refused"},
}

OF_CHANGES: dict[int | str, dict[str, Any]] = {
    409: {
        "model": Problem,
        "description": "The bridge only observes and this changes the panel, or all was released",
    },
}
OF_BODIES: dict[int | str, dict[str, Any]] = {
    408: {"model": Problem, "description": "The body takes too long to arrive"},
    413: {"model": Problem, "description": "The body is too large"},
}


def install_error_handlers(app: FastAPI) -> None:
    """Register handlers that answer a BridgeError with its message and the status for its class."""

    @app.exception_handler(BridgeError)
    async def answer(request: Request, error: BridgeError) -> JSONResponse:  # noqa: ARG001 - the signature is FastAPI's
        return problem_answer(status_of(error), str(error), headers_of(error))

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:  # noqa: ARG001 - the signature is FastAPI's
        reasons = [f"{each['loc'][-1]}: {str(each['msg']).lower()}" for each in error.errors()]
        return problem_answer(422, "; ".join(reasons))

    @app.exception_handler(HTTPException)
    async def answer_routing(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404 and request.url.path.endswith("/"):
            detail = "no route has this path; remove the slash at its end"
            return problem_answer(404, detail, error.headers)
        if error.status_code < 400:
            return await http_exception_handler(request, error)
        detail = str(error.detail)
        if error.status_code == 404 and detail == HTTPStatus.NOT_FOUND.phrase:
            detail = nothing_at(request.url.path)
        return problem_answer(error.status_code, detail, error.headers)


def status_of(error: BridgeError) -> int:
    """Return the HTTP status for the class of an error."""
    match error:
        case PanelRefusedError(status=403 | 404 as status):
            return status
        case UnknownResellerError():
            return 404
        case ObservingError() | ReleasedError():
            return 409
        case NotThePanelError():
            return 502
        case PanelUnavailableError() | CollectorUnavailableError() | PanelLoginError():
            return 503
        case StoreSuspendedError() | PanelSuspendedError() | FollowingError() | PausedError():
            return 503
        case PanelError() | CollectorRefusedError():
            return 502
        case _:
            return 500


def headers_of(error: BridgeError) -> dict[str, str] | None:
    """Return a Retry-After header for a temporary failure; at least what the other side asks."""
    if status_of(error) != 503:
        return None
    asked_seconds = getattr(error, "retry_after_seconds", None) or 0.0
    return {"retry-after": str(max(RETRY_AFTER_SECONDS, math.ceil(asked_seconds)))}
