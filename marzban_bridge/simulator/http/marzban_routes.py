"""Marzban 0.8.4's paths, statuses and error bodies."""
# ruff: noqa: FAST003 - the dependency behind `User` takes the username from the path

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from marzban_bridge.panels.users import Status
from marzban_bridge.simulator.http.marzban_answers import usage_answer
from marzban_bridge.simulator.http.requests import (
    MEMORY_BYTES,
    Panel,
    asked_statuses,
    json_body,
    panel_of,
    whole_number,
)
from marzban_bridge.simulator.panel.errors import RefusedError, failure
from marzban_bridge.simulator.panel.listing import UsersQuery
from marzban_bridge.simulator.panel.users import SimulatedAdmin, SimulatedUser


async def _admin(request: Request) -> SimulatedAdmin:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise RefusedError(401, "Not authenticated")
    return panel_of(request).admin_of(token)


async def _sudo(request: Request) -> SimulatedAdmin:
    admin = await _admin(request)
    if not admin.is_sudo:
        raise RefusedError(403, "You're not allowed")
    return admin


async def _user(username: str, request: Request) -> SimulatedUser:
    admin = await _admin(request)
    user = panel_of(request).find(username)
    if not admin.is_sudo and user.owner != admin.username:
        raise RefusedError(403, "You're not allowed")
    return user


Admin = Annotated[SimulatedAdmin, Depends(_admin)]
Sudo = Annotated[SimulatedAdmin, Depends(_sudo)]
User = Annotated[SimulatedUser, Depends(_user)]

router = APIRouter()


@router.get("/admin")
async def whoami(admin: Admin, panel: Panel) -> dict[str, Any]:
    """Return whose token it is."""
    return panel.show_admin(admin)


@router.get("/admins")
async def admins(panel: Panel, _: Sudo) -> list[dict[str, Any]]:
    """Return the admins of the panel's database."""
    return [panel.show_admin(admin) for admin in panel.admins.values() if admin.is_in_database]


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
    return panel.show_admin(admin)


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
        "version": panel.dialect.version,
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
    return panel.create_from_request(await json_body(request), by=admin.username)


@router.get("/user/{username}")
async def get_user(user: User, panel: Panel) -> dict[str, Any]:
    """Return a user."""
    return panel.show(user)


@router.put("/user/{username}")
async def modify_user(request: Request, user: User, panel: Panel, admin: Admin) -> dict[str, Any]:
    """Change a user."""
    return panel.modify_user(user.username, await json_body(request), by=admin.username)


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
    query = UsersQuery(
        offset=whole_number(request, "offset"),
        limit=whole_number(request, "limit"),
        search=parameters.get("search"),
        statuses=asked_statuses(request),
        owners=parameters.getlist("admin") if admin.is_sudo else [admin.username],
        sort=parameters.get("sort"),
    )
    return panel.list_users(query, usernames=parameters.getlist("username"))


@router.post("/users/reset")
async def reset_all(panel: Panel, admin: Sudo) -> dict[str, str]:
    """Reset the traffic of all users that the admin's button means."""
    panel.reset_all(admin.username)
    return {"detail": "Users successfully reset."}
