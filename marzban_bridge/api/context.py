"""Dependencies of the routes, taken from the application's state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials

from marzban_bridge.api.access.auth import BEARER, Caller, address_of, caller_with, signed_in_with
from marzban_bridge.api.access.callers import Callers
from marzban_bridge.bridge import Bridge, Bridges
from marzban_bridge.errors import FollowingError
from marzban_bridge.panels.users import SignInAnswer

if TYPE_CHECKING:  # it needs the driver, which is an extra
    from marzban_bridge.store.postgres.leadership import Leadership


def bridge_of(request: Request) -> Bridge:
    """Return the bridge of the panel in a request's path, else the first; 404 if it is unknown."""
    bridges = bridges_of(request)
    name = request.path_params.get("panel")
    if name is None:
        return bridges.first
    if bridge := bridges.by_name.get(name):
        return bridge
    raise HTTPException(404, f"there is no panel {name!r}")


def user_of(request: Request, username: str) -> tuple[Bridge, str]:
    """Return the bridge whose user a name in a request's path is, and the name on that panel.

    Without a panel in the path the name is a public one, as reported and shown in dashboards.
    """
    if "panel" in request.path_params:
        return bridge_of(request), username
    return bridges_of(request).find(username)


def bridges_of(request: Request) -> Bridges:
    """Return the bridges of this process; FollowingError while another process leads."""
    bridges: Bridges | None = request.app.state.bridges
    if bridges is None:
        raise FollowingError(
            f"{following(request.app.state.leadership)}; nothing was done here: ask the bridge "
            "that leads. If both were asked, the leading one was unreachable or answered 503"
        )
    return bridges


def callers_of(request: Request) -> Callers:
    """Return the process's rate limits and warnings about callers."""
    callers: Callers = request.app.state.callers
    return callers


def following(leadership: Leadership) -> str:
    """Return a text that names the process that leads."""
    if leadership.leader:
        return f"this bridge follows {leadership.leader}, which leads"
    if leadership.problem:
        return f"this bridge follows, and the leader is unknown: {leadership.problem}"
    return "this bridge follows, and no bridge leads at the moment"


async def _bridge(request: Request) -> Bridge:
    return bridge_of(request)  # a coroutine: FastAPI calls plain functions in a thread


async def _bridges(request: Request) -> Bridges:
    return bridges_of(request)


BridgePart = Annotated[Bridge, Depends(_bridge)]
BridgesPart = Annotated[Bridges, Depends(_bridges)]


async def authenticate(
    request: Request,
    bridge: BridgePart,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)],
) -> Caller:
    """Return the admin that the panel names for the token; 401 when it does not accept it."""
    return await caller_with(
        credentials,
        panel=bridge.panel,
        name=bridge.panel_settings.name,
        callers=callers_of(request),
        address=address_of(request),
        now_seconds=bridges_of(request).clock().timestamp(),
    )


CallerPart = Annotated[Caller, Depends(authenticate)]


async def sign_in_through(
    bridge: Bridge, request: Request, form: bytes, *, content_type: str
) -> SignInAnswer:
    """Forward a sign-in form to the panel; 429 after too many refused ones."""
    return await signed_in_with(
        form,
        content_type=content_type,
        panel=bridge.panel,
        name=bridge.panel_settings.name,
        callers=callers_of(request),
        address=address_of(request),
        now_seconds=bridges_of(request).clock().timestamp(),
    )
