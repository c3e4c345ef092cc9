"""The JSON the simulated panel answers with: Marzban 0.8.4's keys, in its order."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from marzban_bridge.simulator.http.answers import ShownUser
from marzban_bridge.simulator.panel.users import (
    INBOUNDS,
    SHADOWSOCKS_METHOD,
    SimulatedAdmin,
    SimulatedPlan,
    SimulatedUser,
)

KEYS_HIDDEN_FROM_SUBSCRIBERS = frozenset(
    {"inbounds", "note", "auto_delete_in_days", "excluded_inbounds", "admin"}
)


class MarzbanAnswers:
    """Marzban's users and admins."""

    def admin(
        self,
        admin: SimulatedAdmin,
        *,
        total_users: int = 0,  # noqa: ARG002 - Marzban's admins do not show how many they own
    ) -> dict[str, Any]:
        """Return an admin; the environment's has no usage counter."""
        return {
            "username": admin.username,
            "is_sudo": admin.is_sudo,
            "telegram_id": None,
            "discord_webhook": None,
            "users_usage": admin.users_usage if admin.is_in_database else None,
        }

    def acting(self, admin: SimulatedAdmin) -> dict[str, Any]:
        """Return the admin as the API does."""
        return self.admin(admin)

    def system(self) -> None:
        """Return None: Marzban's jobs are silent, or do not say who."""

    def user(self, shown: ShownUser) -> dict[str, Any]:
        """Return a user; times are UTC without saying so."""
        user = shown.user
        proxies = {protocol: _proxy(user, protocol, shown.secret) for protocol in user.proxies}
        return {
            "proxies": proxies,
            "expire": user.expire,
            "data_limit": user.data_limit,
            "data_limit_reset_strategy": user.data_limit_reset_strategy.value,
            "inbounds": {name: list(user.inbounds.get(name, [])) for name in proxies},
            "note": user.note,
            "sub_updated_at": _time(user.sub_updated_at),
            "sub_last_user_agent": user.sub_last_user_agent,
            "online_at": _time(user.online_at),
            "on_hold_expire_duration": user.on_hold_expire_duration,
            "on_hold_timeout": _time(user.on_hold_timeout),
            "auto_delete_in_days": user.auto_delete_in_days,
            "next_plan": _plan(user.next_plan) if user.next_plan else None,
            "username": user.username,
            "status": user.status.value,
            "used_traffic": user.used_traffic,
            "lifetime_used_traffic": user.lifetime_used_traffic,
            "created_at": _time(user.created_at),
            "links": _links(user, proxies),
            "subscription_url": shown.subscription_url,
            "excluded_inbounds": {
                name: [
                    tag for tag in INBOUNDS.get(name, []) if tag not in user.inbounds.get(name, [])
                ]
                for name in proxies
            },
            "admin": self.admin(shown.owner) if shown.owner else None,
        }

    user_in_event = user

    def subscriber(self, user: Mapping[str, Any]) -> dict[str, Any]:
        """Return the part of a user's answer that its subscription shows."""
        hidden = KEYS_HIDDEN_FROM_SUBSCRIBERS
        return {key: value for key, value in user.items() if key not in hidden}


def usage_answer(user: SimulatedUser) -> dict[str, Any]:
    """Return a user's traffic by node; the simulated panel has only its own."""
    master = {"node_id": None, "node_name": "Master", "used_traffic": user.used_traffic}
    return {"username": user.username, "usages": [master]}


def _plan(plan: SimulatedPlan) -> dict[str, Any]:
    return {
        "data_limit": plan.data_limit,
        "expire": plan.expire,
        "add_remaining_traffic": plan.add_remaining_traffic,
        "fire_on_either": plan.fire_on_either,
    }


def _time(at: datetime | None) -> str | None:
    return at.replace(tzinfo=None).isoformat() if at else None


def _proxy(user: SimulatedUser, protocol: str, secret: str) -> dict[str, Any]:
    """Return a proxy's settings: made up for the user, again and again the same until revoked."""
    made_up = uuid5(NAMESPACE_OID, f"{secret} {user.id} {protocol} {user.sub_revoked_at}")
    if protocol == "shadowsocks":
        password = base64.urlsafe_b64encode(made_up.bytes).decode().rstrip("=")
        made = {"password": password, "method": SHADOWSOCKS_METHOD}
    elif protocol == "vless":
        made = {"id": str(made_up), "flow": ""}
    else:
        made = {"id": str(made_up)}
    return made | user.proxies[protocol]


def _links(user: SimulatedUser, proxies: Mapping[str, Mapping[str, Any]]) -> list[str]:
    links = []
    for protocol, settings in proxies.items():
        for tag in user.inbounds.get(protocol, []):
            name = f"{user.username}-{tag.replace(' ', '-')}"
            if protocol == "vless":
                links.append(f"vless://{settings['id']}@127.0.0.1:12080?security=none#{name}")
            elif protocol == "vmess":
                server = {"add": "127.0.0.1", "port": 12081, "id": settings["id"], "ps": name}
                links.append(f"vmess://{_base64(json.dumps(server))}")
            else:
                login = _base64(f"{settings['method']}:{settings['password']}")
                links.append(f"ss://{login}@127.0.0.1:12082#{name}")
    return links


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
