"""The simulated panel's subscription paths: a token proves its user."""

from __future__ import annotations

import base64
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from marzban_bridge.simulator.http.marzban_answers import usage_answer
from marzban_bridge.simulator.http.pasarguard_answers import usage_answer as usage_by_period
from marzban_bridge.simulator.http.requests import Panel

subscription_router = APIRouter()


@subscription_router.get("/{token}/info")
async def subscription_info(token: str, request: Request, panel: Panel) -> dict[str, Any]:
    """Return the user of a subscription token, and to PasarGuard's where the question is from."""
    shown = panel.show_to_subscriber(token)
    if "ip" in shown and request.client:
        shown["ip"] = request.client.host
    return shown


@subscription_router.get("/{token}/usage")
async def subscription_usage(token: str, panel: Panel) -> dict[str, Any]:
    """Return the traffic of a subscription token's user."""
    user = panel.subscriber(token)
    return usage_answer(user) if panel.kind == "marzban" else usage_by_period(panel.clock())


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
    links = base64.b64encode("\n".join(shown.get("links", [])).encode())
    return Response(links, media_type="text/plain", headers={"subscription-userinfo": userinfo})
