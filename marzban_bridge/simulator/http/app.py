"""The simulated panel's HTTP interface: Marzban 0.8.4's paths, statuses and error bodies."""
# ruff: noqa: FAST003 - the dependency behind `User` takes the username from the path

from __future__ import annotations

import base64
import json
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from marzban_bridge.panels.port import Status
from marzban_bridge.simulator.faults import Faults, FaultsMiddleware
from marzban_bridge.simulator.http.answers import admin_answer, usage_answer
from marzban_bridge.simulator.panel.errors import RefusedError, failure
from marzban_bridge.simulator.panel.listing import UsersQuery
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from marzban_bridge.simulator.panel.users import SimulatedAdmin, SimulatedUser

MEMORY_BYTES = 2 * 1024**3


def create_simulator_app(panel: SimulatedPanel, *, faults: Faults | None = None) -> FastAPI:
    """Return an application that answers as the panel would.

    `app.state.faults` takes faults to inject and holds the log of requests.
    """
    app = FastAPI(title="Simulated Marzban", openapi_url=None)
    app.state.panel = panel
    app.state.faults = faults or Faults()
    app.add_middleware(FaultsMiddleware, faults=app.state.faults, clock=panel.clock)
    app.add_exception_handler(RefusedError, _refusal)
    app.include_router(router, prefix="/api")
    app.include_router(subscription_router, prefix=f"/{panel.subscription_path}")
    return app


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)  # noqa: S101 - the handler is registered for it
    if error.status == 500:
        # Marzban's server closes the connection after a failure.
        return PlainTextResponse(str(error.detail), 500, headers={"connection": "close"})
    headers = {"www-authenticate": "Bearer"} if error.status == 401 else None
    return JSONResponse({"detail": error.detail}, error.status, headers=headers)


def _panel(request: Request) -> SimulatedPanel:
    panel: SimulatedPanel = request.app.state.panel
    return panel


def _admin(request: Request) -> SimulatedAdmin:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise RefusedError(401, "Not authenticated")
    return _panel(request).admin_of(token)


def _sudo(request: Request) -> SimulatedAdmin:
    admin = _admin(request)
    if not admin.is_sudo:
        raise RefusedError(403, "You're not allowed")
    return admin


def _user(username: str, request: Request) -> SimulatedUser:
    admin = _admin(request)
    user = _panel(request).find(username)
    if not admin.is_sudo and user.owner != admin.username:
        raise RefusedError(403, "You're not allowed")
    return user


Panel = Annotated[SimulatedPanel, Depends(_panel)]
Admin = Annotated[SimulatedAdmin, Depends(_admin)]
Sudo = Annotated[SimulatedAdmin, Depends(_sudo)]
User = Annotated[SimulatedUser, Depends(_user)]

router = APIRouter()


async def _json(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except json.JSONDecodeError as error:
        raise RefusedError(422, {str(error.pos): "JSON decode error"}) from error


def _whole_number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    try:
        return None if text is None else int(text)
    except ValueError as error:
        raise RefusedError(422, {name: "expected a whole number"}) from error


@router.post("/admin/token")
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


@router.get("/admin")
async def whoami(admin: Admin) -> dict[str, Any]:
    """Return whose token it is."""
    return admin_answer(admin)


@router.get("/admins")
async def admins(panel: Panel, _: Sudo) -> list[dict[str, Any]]:
    """Return the admins of the panel's database."""
    return [admin_answer(admin) for admin in panel.admins.values() if admin.is_in_database]


@router.get("/admin/usage/{username}")
async def admin_usage(username: str, _: Sudo, panel: Panel) -> int:
    """Return what an admin's users used on the panel's nodes."""
    return panel.find_admin(username).users_usage


@router.post("/admin/usage/reset/{username}")
async def reset_admin_usage(username: str, _: Sudo, panel: Panel) -> dict[str, Any]:
    """Set an admin's counter to zero."""
    admin = panel.find_admin(username)
    admin.users_usage = 0
    panel.revision += 1
    return admin_answer(admin)


@router.post("/admin/{username}/users/disable")
async def disable_users(username: str, _: Sudo, panel: Panel) -> dict[str, str]:
    """Suspend an admin's users."""
    panel.disable_users_of(username)
    return {"detail": "Users successfully disabled"}


@router.post("/admin/{username}/users/activate")
async def activate_users(username: str, _: Sudo, panel: Panel) -> dict[str, str]:
    """Resume an admin's users."""
    panel.activate_users_of(username)
    return {"detail": "Users successfully activated"}


@router.get("/system")
async def system(panel: Panel, admin: Admin) -> dict[str, Any]:
    """Return the version and the counts of users; the machine's numbers are made up."""
    statuses = [
        user.status
        for user in panel.users.values()
        if admin.is_sudo or user.owner == admin.username
    ]
    return {
        "version": "0.8.4",
        "mem_total": MEMORY_BYTES,
        "mem_used": MEMORY_BYTES // 8,
        "cpu_cores": 1,
        "cpu_usage": 1.0,
        "total_user": len(statuses),
        "online_users": 0,
        **{f"users_{status}": statuses.count(status) for status in Status},
        "incoming_bandwidth": 0,
        "outgoing_bandwidth": 0,
        "incoming_bandwidth_speed": 0,
        "outgoing_bandwidth_speed": 0,
    }


@router.post("/user")
async def create_user(request: Request, panel: Panel, admin: Admin) -> dict[str, Any]:
    """Create a user."""
    return panel.create_from_request(await _json(request), by=admin.username)


@router.get("/user/{username}")
async def get_user(user: User, panel: Panel) -> dict[str, Any]:
    """Return a user."""
    return panel.show(user)


@router.put("/user/{username}")
async def modify_user(request: Request, user: User, panel: Panel, admin: Admin) -> dict[str, Any]:
    """Change a user."""
    return panel.modify_user(user.username, await _json(request), by=admin.username)


@router.delete("/user/{username}")
async def delete_user(user: User, panel: Panel, admin: Admin) -> dict[str, str]:
    """Delete a user; answers 500 for one without an owner although it is deleted."""
    if panel.delete_user(user.username, by=admin.username).owner is None:
        raise failure()
    return {"detail": "User successfully deleted"}


@router.post("/user/{username}/reset")
async def reset_user(user: User, panel: Panel, admin: Admin) -> dict[str, Any]:
    """Reset a user's traffic."""
    return panel.reset_user(user.username, by=admin.username)


@router.post("/user/{username}/revoke_sub")
async def revoke_subscription(user: User, panel: Panel, admin: Admin) -> dict[str, Any]:
    """Revoke a user's subscription links."""
    return panel.revoke_subscription(user.username, by=admin.username)


@router.post("/user/{username}/active-next")
async def fire_next_plan(user: User, panel: Panel) -> None:
    """Fire a user's next plan, and answer 404 although it fired."""
    panel.fire_next_plan(user.username)
    raise RefusedError(404, "User doesn't have next plan")


@router.get("/user/{username}/usage")
async def user_usage(user: User) -> dict[str, Any]:
    """Return a user's traffic by node."""
    return usage_answer(user)


@router.get("/users")
async def list_users(request: Request, panel: Panel, admin: Admin) -> dict[str, Any]:
    """Return a page of users."""
    parameters = request.query_params
    status = parameters.get("status")
    if status is not None and status not in list(Status):
        raise RefusedError(422, {"status": f"expected one of {', '.join(Status)}"})
    query = UsersQuery(
        offset=_whole_number(request, "offset"),
        limit=_whole_number(request, "limit"),
        search=parameters.get("search"),
        status=Status(status) if status else None,
        owners=parameters.getlist("admin") if admin.is_sudo else [admin.username],
        sort=parameters.get("sort"),
    )
    return panel.list_users(query, usernames=parameters.getlist("username"))


@router.post("/users/reset")
async def reset_all(panel: Panel, admin: Sudo) -> dict[str, str]:
    """Reset the traffic of all users that the admin's button means."""
    panel.reset_all(admin.username)
    return {"detail": "Users successfully reset."}


subscription_router = APIRouter()


@subscription_router.get("/{token}/info")
async def subscription_info(token: str, panel: Panel) -> dict[str, Any]:
    """Return the user of a subscription token."""
    return panel.show_to_subscriber(token)


@subscription_router.get("/{token}/usage")
async def subscription_usage(token: str, panel: Panel) -> dict[str, Any]:
    """Return the traffic of a subscription token's user."""
    return usage_answer(panel.subscriber(token))


@subscription_router.get("/{token}")
@subscription_router.get("/{token}/")
async def subscription(token: str, request: Request, panel: Panel) -> Response:
    """Return the links of a subscription token's user, and note who fetched them."""
    user = panel.subscriber(token)
    shown = panel.show(user)
    user.sub_updated_at = panel.clock()
    user.sub_last_user_agent = request.headers.get("user-agent", "")
    panel.revision += 1
    remaining = {
        "upload": 0,
        "download": user.used_traffic,
        "total": user.data_limit or 0,
        "expire": user.expire or 0,
    }
    userinfo = "; ".join(f"{name}={value}" for name, value in remaining.items())
    links = base64.b64encode("\n".join(shown["links"]).encode())
    return Response(links, media_type="text/plain", headers={"subscription-userinfo": userinfo})
