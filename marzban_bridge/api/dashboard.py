"""Routes of a dashboard's buttons; Grafana's datasource proxy forwards them from signed-in users.

Grafana adds the token, which browsers never receive, and the login. A user of Grafana can call the
proxy without a button, so the login is checked here.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, HTTPException, Request, Security
from fastapi.security import APIKeyHeader
from pydantic import BaseModel, Field

from marzban_bridge.api.answers import ResetAll, ResetAllAnswer, ResetAnswer, reset_answer
from marzban_bridge.api.audit import audited
from marzban_bridge.api.bodies import Body, described, read_model
from marzban_bridge.api.context import BridgePart, BridgesPart, bridges_of, callers_of, user_of
from marzban_bridge.api.errors import FOR_ADMINS, OF_BODIES, OF_CHANGES, Problem
from marzban_bridge.bridge import Bridge, first_failure
from marzban_bridge.config.settings import Settings
from marzban_bridge.errors import BridgeError
from marzban_bridge.reconcile.action_names import Action

router = APIRouter(prefix="/actions", tags=["dashboard actions"])

MAX_BODY_BYTES = 4096
MAX_LOGIN_LENGTH = 100
ANY_LOGIN = "*"
"""In BRIDGE_ACTION_LOGINS: all who are signed in to Grafana, and a Grafana that sends no login."""
NO_LOGIN = "grafana"
ANSWERS: dict[int | str, dict[str, Any]] = {
    status: answer for status, answer in FOR_ADMINS.items() if status != 401
} | {
    **OF_BODIES,
    **OF_CHANGES,
    429: {"model": Problem, "description": "Asked for too often by one login"},
}

_TOKEN = APIKeyHeader(
    name="X-Bridge-Token", auto_error=False, description="BRIDGE_ACTION_TOKEN, added by Grafana"
)


class Cleanup(BaseModel):
    """The age of rows to delete, with the typed confirmation."""

    days: int = Field(ge=1, le=36500, strict=True)
    confirm: Literal["cleanup"]


def _may(action: Action) -> Callable[..., Awaitable[str]]:
    """Return a dependency that authorizes the action and returns the actor's name for events."""

    async def let_through(
        request: Request,
        bridge: BridgePart,
        token: Annotated[str | None, Security(_TOKEN)],
        x_grafana_user: Annotated[str, Header()] = "",
    ) -> str:
        bridges = bridges_of(request)
        try:
            _check_token(bridges.settings, token or "")
            login = _checked_login(bridges.settings, x_grafana_user)
        except HTTPException:
            _count(bridge, action, "denied")
            raise
        throttle = callers_of(request).action_throttles[action]
        if wait_seconds := throttle.take(login, now_seconds=bridges.clock().timestamp()):
            _count(bridge, action, "throttled")
            headers = {"retry-after": str(math.ceil(wait_seconds))}
            raise HTTPException(429, f"{login or NO_LOGIN} sends this too often", headers)
        return f"{NO_LOGIN}:{login}" if login else NO_LOGIN

    return let_through


def _check_token(settings: Settings, token: str) -> None:
    """Raise 403 for a wrong token; on a 401 Grafana would sign its own user out."""
    expected = settings.action_token
    if not expected:
        raise HTTPException(403, "dashboard actions are off: BRIDGE_ACTION_TOKEN is not set")
    if not hmac.compare_digest(expected.encode(), token.encode("latin-1", "replace")):
        raise HTTPException(403, "X-Bridge-Token must be the bridge's BRIDGE_ACTION_TOKEN")


def _checked_login(settings: Settings, header: str) -> str:
    """Return the Grafana login, with unprintable characters replaced; 403 unless it may act."""
    login = header.encode("latin-1", "replace").decode("utf-8", "replace").strip()
    shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in login)
    shown = shown[:MAX_LOGIN_LENGTH]
    allowed = settings.action_logins
    if not allowed:
        raise HTTPException(
            403,
            "dashboard actions are off: BRIDGE_ACTION_LOGINS names no login of Grafana that may "
            "use them",
        )
    if ANY_LOGIN in allowed:
        return shown
    if not login:
        raise HTTPException(
            403,
            "Grafana sends no login, and BRIDGE_ACTION_LOGINS needs one: set "
            "GF_DATAPROXY_SEND_USER_HEADER=true in Grafana",
        )
    if login not in allowed:
        raise HTTPException(403, f"{shown} is not among BRIDGE_ACTION_LOGINS")
    return shown


def _count(bridge: Bridge, action: Action, result: str) -> None:
    bridge.metrics.actions.labels(action.value, result).inc()


async def _read(request: Request, bridge: Bridge, action: Action, model: type[Body]) -> Body:
    """Read the body; count a refused one in the metric of actions."""
    try:
        return await read_model(request, model, max_bytes=MAX_BODY_BYTES, what="an action's body")
    except HTTPException:
        _count(bridge, action, "invalid")
        raise


@router.post("/users/{username:path}/reset", responses=ANSWERS)
async def reset_user(
    username: str,
    request: Request,
    bridges: BridgesPart,
    actor: Annotated[str, Depends(_may(Action.RESET))],
) -> ResetAnswer:
    """Reset a user, in the panel and externally; the body is ignored."""
    bridge, name = user_of(request, username)
    with audited(bridge, bridges.clock, Action.RESET, actor=actor, username=name):
        after = await bridge.actions.reset_user(name, actor=actor)
    return reset_answer(after)


@router.post("/reset-all", responses=ANSWERS, openapi_extra=described(ResetAll))
async def reset_all(
    request: Request, bridges: BridgesPart, actor: Annotated[str, Depends(_may(Action.RESET_ALL))]
) -> ResetAllAnswer:
    """Reset all users of the bridge's own admin on every panel, which restarts xray on every node.

    A panel that fails does not stop the reset of the others; the answer is then its error.
    """
    await _read(request, bridges.first, Action.RESET_ALL, ResetAll)
    users, results = 0, await bridges.reset_everybody(actor=actor)
    for name, result in results.items():
        with (
            suppress(BridgeError),
            audited(bridges.by_name[name], bridges.clock, Action.RESET_ALL, actor=actor),
        ):
            if isinstance(result, BridgeError):
                raise result
            users += result
    if failure := first_failure(results):
        raise failure
    return ResetAllAnswer(users=users)


@router.post("/cleanup", responses=ANSWERS, openapi_extra=described(Cleanup))
async def cleanup(
    request: Request,
    bridge: BridgePart,
    bridges: BridgesPart,
    actor: Annotated[str, Depends(_may(Action.CLEANUP))],
) -> dict[str, object]:
    """Have the collector delete rows older than `days`; totals and quotas stay."""
    asked = await _read(request, bridge, Action.CLEANUP, Cleanup)
    with audited(bridge, bridges.clock, Action.CLEANUP, actor=actor):
        return await bridge.actions.cleanup(days=asked.days, actor=actor)
