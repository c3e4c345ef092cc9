"""Routes for the most frequent requests, served without FastAPI's dependency resolution.

Resolving dependencies and validating an answer takes FastAPI half a millisecond of processor time,
twenty times as much as storing a report. A `FastRoute` is declared as usual, so the OpenAPI
document is complete; to serve a request it calls its function directly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from collector.api.dependencies import collector_of
from collector.api.problems import answer_of, problem_of
from collector.api.senders import Claims, read_claims
from collector.errors import CollectorError
from collector.parts import Collector
from collector.runtime.http import answer_mark
from collector.runtime.http.at_once import send_at_once

_MARK = answer_mark.HEADER.encode()
_REQUEST_ID = answer_mark.REQUEST_HEADER.encode()
HEADERS = b"content-length: %d\r\ncontent-type: application/json\r\n" + _MARK + b": %b\r\n"
"""The lines of a plain answer's headers, given its length and mark."""


class _Endpoint(Protocol):
    async def __call__(
        self, request: Request, collector: Collector, claimed: Claims, **parameters: str
    ) -> BaseModel | bytes: ...


class FastRoute(APIRoute):
    """A route whose function takes the request, the collector, claims and path parameters.

    It returns its answer, or the JSON of it.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request that matches; FastAPI answers other methods with 405."""
        if scope["method"] in (self.methods or ()):
            await self.serve(scope, receive, send)
        else:
            await super().handle(scope, receive, send)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what the route's function returns, or the ProblemError that it raises."""
        request = Request(scope, receive, send)
        endpoint = cast("_Endpoint", self.endpoint)
        parameters: Mapping[str, Any] = scope.get("path_params") or {}
        try:
            claimed = read_claims(scope)
            answer = await endpoint(request, collector_of(request), claimed, **parameters)
        except CollectorError as error:
            problem = answer_of(problem_of(error))
            problem.headers[answer_mark.HEADER] = mark_of(scope["headers"])
            await problem(scope, receive, send)
            return
        body = answer if isinstance(answer, bytes) else answer.model_dump_json().encode()
        mark = mark_of(scope["headers"]).encode()
        if send_at_once(send, HEADERS % (len(body), mark), body):
            return
        headers = [
            (b"content-length", str(len(body)).encode()),
            (b"content-type", b"application/json"),
            (_MARK, mark),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def mark_of(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """Return the mark of the answer to a request with these headers."""
    for name, value in headers:
        if name == _REQUEST_ID:
            return answer_mark.mark_of(value.decode("latin-1"))
    return answer_mark.mark_of(None)


class FastRoutesApp(FastAPI):
    """An application that serves fast routes before middleware and routing.

    The server logs an unexpected error of a fast route, and answers 500.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._fast: dict[tuple[str, str], FastRoute] = {}

    def serve_fast(self, router: APIRouter) -> None:
        """Serve the fast routes of an included router; paths with parameters go through routing.

        A slash at the end of a path is accepted.
        """
        for route in router.routes:
            if isinstance(route, FastRoute) and "{" not in route.path:
                for path in (route.path, f"{route.path}/"):
                    self._fast |= {(method, path): route for method in route.methods or ()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the application's lifespan."""
        if scope["type"] == "http" and not scope.get("root_path"):
            route = self._fast.get((scope["method"], scope["path"]))
            if route is not None:
                scope["app"] = self
                await route.serve(scope, receive, send)
                return
        await super().__call__(scope, receive, send)
