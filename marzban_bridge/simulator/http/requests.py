"""What the simulated panels' paths share: who asks, and what was sent."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import Depends, Request

from marzban_bridge.panels.users import Status
from marzban_bridge.simulator.panel.errors import RefusedError
from marzban_bridge.simulator.panel.panel import SimulatedPanel

MEMORY_BYTES = 2 * 1024**3


def panel_of(request: Request) -> SimulatedPanel:
    """Return the panel behind the application."""
    panel: SimulatedPanel = request.app.state.panel
    return panel


async def _panel(request: Request) -> SimulatedPanel:
    return panel_of(request)  # a coroutine: FastAPI calls plain functions in a thread


Panel = Annotated[SimulatedPanel, Depends(_panel)]


async def json_body(request: Request) -> Any:
    """Return the request's JSON; RefusedError 422 for what is none, 400 for what is no text."""
    try:
        return json.loads(await request.body())
    except json.JSONDecodeError as error:
        raise RefusedError(422, {str(error.pos): "JSON decode error"}) from error
    except UnicodeDecodeError as error:
        raise RefusedError(400, "There was an error parsing the body") from error


def whole_number(request: Request, name: str) -> int | None:
    """Return a query parameter that is a whole number; RefusedError 422."""
    text = request.query_params.get(name)
    try:
        return None if text is None else int(text)
    except ValueError as error:
        raise RefusedError(422, {name: "expected a whole number"}) from error


def asked_statuses(request: Request) -> list[Status]:
    """Return the states a list is restricted to; RefusedError 422."""
    asked = request.query_params.getlist("status")
    if not set(asked) <= set(Status):
        raise RefusedError(422, {"status": f"expected one of {', '.join(Status)}"})
    return [Status(each) for each in asked]


async def sign_in(request: Request, panel: Panel) -> dict[str, str]:
    """Exchange a form of username and password for a bearer token."""
    body = await request.body()
    is_form = request.headers.get("content-type", "").startswith(
        "application/x-www-form-urlencoded"
    )
    form = parse_qs(body.decode(errors="replace")) if is_form else {}
    missing = {name: "Field required" for name in ("username", "password") if name not in form}
    if missing:
        raise RefusedError(422, missing)
    token = panel.sign_in(form["username"][-1], form["password"][-1])
    return {"access_token": token, "token_type": "bearer"}
