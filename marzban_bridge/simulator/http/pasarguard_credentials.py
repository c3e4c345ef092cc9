"""Who asks a simulated PasarGuard: by a bearer token or an API key, and what it may do."""

from __future__ import annotations

from fastapi import Request

from marzban_bridge.simulator.http.requests import panel_of
from marzban_bridge.simulator.panel import pasarguard
from marzban_bridge.simulator.panel.errors import RefusedError
from marzban_bridge.simulator.panel.roles import demand, demand_for_all
from marzban_bridge.simulator.panel.users import SimulatedAdmin


def current_admin(request: Request) -> SimulatedAdmin:
    """Return the admin who asks; RefusedError 401 without valid credentials, 403 if disabled."""
    panel = panel_of(request)
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        admin = panel.admin_of(credentials)
    elif not panel.dialect.admins_have_roles:
        raise RefusedError(401, "Not authenticated")
    else:
        key = credentials if scheme.lower() == "apikey" else ""
        admin = pasarguard.admin_of_key(panel, request.headers.get("x-api-key", key).strip())
    if admin.status == "disabled":
        raise RefusedError(403, "your account has been disabled")
    return admin


def admin_for(request: Request, resource: str, action: str) -> SimulatedAdmin:
    """Return who asks; RefusedError 403, naming the permission, when it may not."""
    admin = current_admin(request)
    demand(admin, resource, action)
    return admin


def for_all(request: Request, resource: str, action: str) -> SimulatedAdmin:
    """Return who asks; RefusedError 403 when it may not do that to everybody's users."""
    admin = current_admin(request)
    demand_for_all(admin, resource, action)
    return admin
