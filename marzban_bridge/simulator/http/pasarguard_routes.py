"""PasarGuard 5.2.1's paths for users, statuses and error bodies.

Each path of one user is there three times: by name, by name again, and by number.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from marzban_bridge.panels.users import Status
from marzban_bridge.simulator.http.pasarguard_admin_routes import admin_router
from marzban_bridge.simulator.http.pasarguard_answers import usage_answer
from marzban_bridge.simulator.http.pasarguard_credentials import admin_for, for_all
from marzban_bridge.simulator.http.requests import (
    MEMORY_BYTES,
    asked_statuses,
    json_body,
    panel_of,
    whole_number,
)
from marzban_bridge.simulator.panel import pasarguard
from marzban_bridge.simulator.panel.errors import RefusedError
from marzban_bridge.simulator.panel.listing import UsersQuery
from marzban_bridge.simulator.panel.payloads.fields import Fields, integer
from marzban_bridge.simulator.panel.roles import OWN, scope_of
from marzban_bridge.simulator.panel.users import SimulatedAdmin, SimulatedUser

router = APIRouter()
Handler = Callable[[Request], Awaitable[Response]]


def _of_user(method: str, ending: str = "") -> Callable[[Handler], Handler]:
    """Register a path of one user, by its number and by its name."""

    def register(handler: Handler) -> Handler:
        for prefix in ("/user/by-id/{user_id}", "/user/by-username/{username}", "/user/{username}"):
            router.add_api_route(f"{prefix}{ending}", handler, methods=[method])
        return handler

    return register


def _user(request: Request, action: str) -> tuple[SimulatedUser, SimulatedAdmin]:
    """Return the path's user and who asks.

    RefusedError 403 without the permission, 404 for another admin's user where the scope is the
    admin's own: by name that of reading counts, whatever is done.
    """
    admin = admin_for(request, "users", action)
    path, panel = request.path_params, panel_of(request)
    if "user_id" in path:
        number = path["user_id"]
        if not number.isdigit():
            raise RefusedError(422, {"user_id": "Input should be a valid integer"})
        user, scoped_action = panel.find_by_id(int(number)), action
    else:
        user, scoped_action = panel.find(path["username"]), "read"
    if scope_of(admin, "users", scoped_action) == OWN and user.owner != admin.username:
        raise RefusedError(404, "User not found")
    return user, admin


@router.get("/system")
async def system(request: Request) -> dict[str, Any]:
    """Return the version and the counts of users; the machine's numbers are made up."""
    admin, panel = admin_for(request, "system", "read"), panel_of(request)
    statuses = [
        user.status
        for user in panel.users.values()
        if admin.role.is_owner or user.owner == admin.username
    ]
    return {
        "total_user": len(statuses),
        "online_users": 0,
        **{f"{status}_users": statuses.count(status) for status in Status},
        "incoming_bandwidth": 0,
        "outgoing_bandwidth": 0,
        "version": panel.dialect.version,
        "uptime_seconds": 60,
        "mem_total": MEMORY_BYTES,
        "mem_used": MEMORY_BYTES // 8,
        "disk_total": MEMORY_BYTES * 8,
        "disk_used": MEMORY_BYTES,
        "cpu_cores": 1,
        "cpu_usage": 1.0,
    }


@router.post("/user")
async def create_user(request: Request) -> Response:
    """Create a user; 201."""
    admin = admin_for(request, "users", "create")
    body = await json_body(request)
    return JSONResponse(panel_of(request).create_from_request(body, by=admin.username), 201)


@router.get("/users")
async def list_users(request: Request) -> dict[str, Any]:
    """Return a page of users; without `load_sub` their subscription URLs are empty."""
    panel, parameters = panel_of(request), request.query_params
    query, names = _query(request, scope_action="read_simple", permission="read")
    return panel.list_users(query, usernames=names, has_url=parameters.get("load_sub") == "true")


@router.get("/users/simple")
async def list_simple(request: Request) -> dict[str, Any]:
    """Return numbers and names alone."""
    query, names = _query(request, scope_action="read", permission="read_simple")
    page, total = panel_of(request).select(query, usernames=names)
    return {"users": [{"id": each.id, "username": each.username} for each in page], "total": total}


def _query(request: Request, *, scope_action: str, permission: str) -> tuple[UsersQuery, list[str]]:
    """Return what is listed; the panel takes each list's scope from the other's permission."""
    admin = admin_for(request, "users", permission)
    parameters = request.query_params
    sort = parameters.get("sort")
    is_own = scope_of(admin, "users", scope_action) == OWN
    names, also_named = parameters.getlist("username"), parameters.getlist("usernames")
    try:
        ids = [int(each) for each in parameters.getlist("ids")]
    except ValueError as error:
        raise RefusedError(422, {"ids": "Input should be a valid integer"}) from error
    query = UsersQuery(
        offset=whole_number(request, "offset"),
        limit=whole_number(request, "limit"),
        search=parameters.get("search"),
        statuses=asked_statuses(request),
        owners=[admin.username] if is_own else parameters.getlist("admin"),
        sort=sort if panel_of(request).dialect.empty_sort_is_refused else sort or None,
        ids=ids,
        also_named=also_named if names else (),
    )
    return query, names or also_named


@router.post("/users/reset")
async def reset_all(request: Request) -> dict[str, Any]:
    """Reset everybody's traffic."""
    admin = for_all(request, "users", "reset_usage")
    panel_of(request).reset_all(admin.username)
    return {}


@router.post("/users/bulk/reset")
async def reset_some(request: Request) -> dict[str, Any]:
    """Reset the users of some numbers."""
    admin, panel = admin_for(request, "users", "reset_usage"), panel_of(request)
    fields = Fields(await json_body(request))
    ids = fields.read("ids", lambda value: [integer(each) for each in value]) or []
    fields.finish()
    if not ids:
        raise RefusedError(422, {"ids": "Value error, you must select at least one user"})
    names = [panel.find_by_id(user_id).username for user_id in ids]
    for name in names:
        panel.reset_user(name, by=admin.username)
    return {"users": names, "count": len(names)}


@router.post("/users/bulk/data_limit")
async def change_limits(request: Request) -> dict[str, str]:
    """Add an amount of bytes to the limits of some users, or all."""
    for_all(request, "users", "update")
    fields = Fields(await json_body(request))
    amount_bytes = fields.read("amount", integer)
    ids = fields.read("users", lambda value: [integer(each) for each in value]) or []
    if amount_bytes is None:
        fields.wrong.setdefault("amount", "Field required")
    fields.finish()
    count = pasarguard.change_limits(panel_of(request), amount_bytes or 0, ids=ids)
    return {"detail": f"operation has been successfuly done on {count} users"}


@_of_user("GET")
async def get_user(request: Request) -> Response:
    """Return a user."""
    user, _ = _user(request, "read")
    return JSONResponse(panel_of(request).show(user))


@_of_user("PUT")
async def modify_user(request: Request) -> Response:
    """Change a user."""
    user, admin = _user(request, "update")
    body = await json_body(request)
    return JSONResponse(panel_of(request).modify_user(user.username, body, by=admin.username))


@_of_user("PUT", "/disabled")
async def set_disabled(request: Request) -> Response:
    """Turn the dashboard's switch."""
    user, _ = _user(request, "update")
    body = pasarguard.json_object_or_refuse(await json_body(request))
    if not isinstance(body.get("disabled"), bool):
        raise RefusedError(422, {"disabled": "Input should be a valid boolean"})
    answer = pasarguard.set_disabled(panel_of(request), user, is_disabled=body["disabled"])
    return JSONResponse(answer)


@_of_user("DELETE")
async def delete_user(request: Request) -> Response:
    """Delete a user; 204."""
    user, admin = _user(request, "delete")
    panel_of(request).delete_user(user.username, by=admin.username)
    return Response(status_code=204)


@_of_user("POST", "/reset")
async def reset_user(request: Request) -> Response:
    """Reset a user's traffic."""
    user, admin = _user(request, "reset_usage")
    return JSONResponse(panel_of(request).reset_user(user.username, by=admin.username))


@_of_user("POST", "/revoke_sub")
async def revoke_subscription(request: Request) -> Response:
    """Revoke a user's subscription links."""
    user, admin = _user(request, "revoke_sub")
    return JSONResponse(panel_of(request).revoke_subscription(user.username, by=admin.username))


@_of_user("POST", "/active_next")
async def fire_next_plan(request: Request) -> Response:
    """Fire a user's next plan; 404 when it has none."""
    user, admin = _user(request, "activate_next_plan")
    if user.next_plan is None:
        raise RefusedError(404, "User doesn't have next plan")
    panel = panel_of(request)
    panel.fire_next_plan(user.username, by=admin.username)
    return JSONResponse(panel.show(user))


@_of_user("GET", "/usage")
async def user_usage(request: Request) -> Response:
    """Return a user's traffic by period."""
    _user(request, "read")
    return JSONResponse(usage_answer(panel_of(request).clock()))


router.include_router(admin_router)
