"""The simulated panel's HTTP interface, of the kind that it is."""

from __future__ import annotations

import functools

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute

from marzban_bridge.simulator.faults import Faults, FaultsMiddleware
from marzban_bridge.simulator.http import marzban_routes, pasarguard_routes
from marzban_bridge.simulator.http.requests import sign_in
from marzban_bridge.simulator.http.subscriptions import subscription_router
from marzban_bridge.simulator.panel.errors import RefusedError
from marzban_bridge.simulator.panel.panel import SimulatedPanel

ROUTES = {"marzban": marzban_routes.router, "pasarguard": pasarguard_routes.router}


def create_simulator_app(panel: SimulatedPanel, *, faults: Faults | None = None) -> FastAPI:
    """Return an application that answers as the panel would.

    `app.state.faults` takes faults to inject and holds the log of requests.
    """
    app = FastAPI(title=f"Simulated {panel.dialect.title}", openapi_url=None)
    app.state.panel = panel
    app.state.faults = faults or Faults()
    app.add_middleware(FaultsMiddleware, faults=app.state.faults, clock=panel.clock)
    app.add_exception_handler(RefusedError, _refusal)
    app.router.routes.extend(_routes(panel.kind, panel.subscription_path))
    return app


@functools.lru_cache(maxsize=8)
def _routes(kind: str, subscription_path: str) -> tuple[BaseRoute, ...]:
    """Return a panel's routes, the same for each application: FastAPI is slow to build them."""
    router = APIRouter()
    router.post("/api/admin/token")(sign_in)
    router.include_router(ROUTES[kind], prefix="/api")
    router.include_router(subscription_router, prefix=f"/{subscription_path}")
    return tuple(router.routes)


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)  # noqa: S101 - the handler is registered for it
    if error.status == 500:
        # The panels' server closes the connection after a failure.
        return PlainTextResponse(str(error.detail), 500, headers={"connection": "close"})
    headers = {"www-authenticate": "Bearer"} if error.status == 401 else None
    return JSONResponse({"detail": error.detail}, error.status, headers=headers)
