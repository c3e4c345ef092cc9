"""PasarGuard 5.2.1's paths for admins, roles, API keys, templates and settings."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from marzban_bridge.simulator.http.pasarguard_answers import role_answer, time, usage_answer
from marzban_bridge.simulator.http.pasarguard_credentials import admin_for, current_admin
from marzban_bridge.simulator.http.requests import Panel, json_body
from marzban_bridge.simulator.panel import pasarguard
from marzban_bridge.simulator.panel.errors import RefusedError
from marzban_bridge.simulator.panel.users import SimulatedTemplate
from marzban_bridge.simulator.panel.webhook_settings import parse_settings, settings_answer

OTHER_SETTINGS = (
    *("telegram", "notification_settings", "notification_enable", "subscription"),
    *("hwid", "general"),
)
"""Parts of the settings that the simulated panel has not: null."""

STATES = ("active", "disabled")
"""Of admins without roles, which have no limit either."""

admin_router = APIRouter()


@admin_router.get("/admin")
async def whoami(request: Request, panel: Panel) -> dict[str, Any]:
    """Return who asks, with what it may do."""
    return panel.show_admin(current_admin(request))


@admin_router.post("/admin")
async def create_admin(request: Request, panel: Panel) -> Response:
    """Create an admin; 201."""
    admin_for(request, "admins", "create")
    created = pasarguard.create_admin(panel, await json_body(request))
    return JSONResponse(panel.show_admin(created), 201)


@admin_router.put("/admin/{username}")
async def modify_admin(username: str, request: Request, panel: Panel) -> dict[str, Any]:
    """Change an admin's role, state, password or quota."""
    admin_for(request, "admins", "update")
    admin = panel.find_admin(username)
    return panel.show_admin(pasarguard.modify_admin(panel, admin, await json_body(request)))


@admin_router.get("/admins")
async def admins(request: Request, panel: Panel) -> dict[str, Any]:
    """Return the admins, and how many of them are in which state."""
    admin_for(request, "admins", "read")
    shown = [panel.show_admin(admin) for admin in panel.admins.values()]
    statuses = [admin.status for admin in panel.admins.values()]
    states = ("active", "disabled", "limited") if panel.dialect.admins_have_roles else STATES
    counts = {name: statuses.count(name) for name in states}
    return {"admins": shown, "total": len(shown), **counts}


@admin_router.get("/admins/simple")
async def admins_simple(request: Request, panel: Panel) -> dict[str, Any]:
    """Return the admins' numbers and names."""
    admin_for(request, "admins", "read_simple")
    by_name = sorted(panel.admins.values(), key=lambda admin: admin.username)
    shown = [{"id": admin.id, "username": admin.username} for admin in by_name]
    return {"admins": shown, "total": len(shown)}


@admin_router.get("/admin/{username}/usage")
async def admin_usage(username: str, request: Request, panel: Panel) -> dict[str, Any]:
    """Return an admin's traffic by period."""
    admin_for(request, "admins", "read")
    panel.find_admin(username)
    return usage_answer(panel.clock())


@admin_router.post("/admin/{username}/reset")
async def reset_admin(username: str, request: Request, panel: Panel) -> dict[str, Any]:
    """Begin a new period of an admin's own quota."""
    admin_for(request, "admins", "reset_usage")
    admin = panel.find_admin(username)
    pasarguard.reset_admin(panel, admin)
    return panel.show_admin(admin)


@admin_router.post("/admin/{username}/users/disable")
async def disable_users(username: str, request: Request, panel: Panel) -> dict[str, Any]:
    """Suspend an admin's users."""
    admin_for(request, "admins", "update")
    panel.disable_users_of(username)
    return {}


@admin_router.post("/admin/{username}/users/activate")
async def activate_users(username: str, request: Request, panel: Panel) -> dict[str, Any]:
    """Resume an admin's users."""
    admin_for(request, "admins", "update")
    panel.activate_users_of(username)
    return {}


@admin_router.post("/admin-role")
async def create_role(request: Request, panel: Panel) -> Response:
    """Create a role; 201."""
    admin_for(request, "admin_roles", "create")
    role = pasarguard.add_role(panel, await json_body(request))
    return JSONResponse(role_answer(role) | {"created_at": time(panel.clock())}, 201)


@admin_router.post("/api_key")
async def create_api_key(request: Request, panel: Panel) -> Response:
    """Make an API key and show its text, this once; 201."""
    admin = admin_for(request, "api_keys", "create")
    key = pasarguard.add_api_key(panel, await json_body(request), by=admin)
    return JSONResponse(pasarguard.show_api_key(panel, key) | {"api_key": key.key}, 201)


@admin_router.get("/api_keys")
async def api_keys(request: Request, panel: Panel) -> dict[str, Any]:
    """Return the admin's keys, or all to the owner; the newest come first."""
    admin = admin_for(request, "api_keys", "read")
    shown = [
        pasarguard.show_api_key(panel, key)
        for key in sorted(panel.api_keys.values(), key=lambda key: key.id, reverse=True)
        if admin.role.is_owner or key.admin == admin.username
    ]
    return {"api_keys": shown, "total": len(shown)}


@admin_router.patch("/api_key/{key_id}")
async def change_api_key(key_id: int, request: Request, panel: Panel) -> dict[str, Any]:
    """Change a key, or switch it off."""
    admin = admin_for(request, "api_keys", "update")
    key = pasarguard.change_api_key(panel, key_id, await json_body(request), by=admin)
    return pasarguard.show_api_key(panel, key)


@admin_router.post("/api_key/{key_id}/revoke")
async def revoke_api_key(key_id: int, request: Request, panel: Panel) -> dict[str, Any]:
    """Put another text in a key's place and show it, this once."""
    admin = admin_for(request, "api_keys", "delete")
    key = pasarguard.revoke_api_key(panel, key_id, by=admin)
    return pasarguard.show_api_key(panel, key) | {"api_key": key.key}


@admin_router.delete("/api_key/{key_id}")
async def delete_api_key(key_id: int, request: Request, panel: Panel) -> Response:
    """Delete a key; 204."""
    admin = admin_for(request, "api_keys", "delete")
    pasarguard.delete_api_key(panel, key_id, by=admin)
    return Response(status_code=204)


@admin_router.post("/user_template")
async def create_template(request: Request, panel: Panel) -> Response:
    """Create a template; 201."""
    admin_for(request, "templates", "create")
    template = pasarguard.add_template(panel, await json_body(request))
    return JSONResponse(_template_answer(template), 201)


@admin_router.get("/user_templates")
async def templates(request: Request, panel: Panel) -> list[dict[str, Any]]:
    """Return the templates."""
    admin_for(request, "templates", "read")
    return [_template_answer(each) for each in panel.templates.values()]


@admin_router.get("/user_template/{template_id}")
async def template(template_id: int, request: Request, panel: Panel) -> dict[str, Any]:
    """Return one template."""
    admin_for(request, "templates", "read")
    if template_id not in panel.templates:
        raise RefusedError(404, "User Template not found")
    return _template_answer(panel.templates[template_id])


@admin_router.get("/settings")
async def settings(request: Request, panel: Panel) -> dict[str, Any]:
    """Return the settings; only that of the webhooks has effects here."""
    admin_for(request, "settings", "read")
    return dict.fromkeys(OTHER_SETTINGS) | {"webhook": settings_answer(panel.webhook_settings)}


@admin_router.put("/settings")
async def modify_settings(request: Request, panel: Panel) -> dict[str, Any]:
    """Change the settings; parts that are not sent stay."""
    admin_for(request, "settings", "update")
    body = pasarguard.json_object_or_refuse(await json_body(request))
    if body.get("webhook") is not None:
        panel.webhook_settings = parse_settings(body["webhook"])
        panel.revision += 1
    return dict.fromkeys(OTHER_SETTINGS) | {"webhook": settings_answer(panel.webhook_settings)}


def _template_answer(template: SimulatedTemplate) -> dict[str, Any]:
    return asdict(template) | {
        "group_ids": list(template.group_ids),
        "hwid_limit": None,
        "username_prefix": None,
        "username_suffix": None,
        "extra_settings": None,
        "reset_usages": False,
        "is_disabled": False,
    }
