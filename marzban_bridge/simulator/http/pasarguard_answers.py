"""The JSON a simulated PasarGuard answers with: 5.2.1's keys in its order, or 3.1.0's admins."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from marzban_bridge.simulator.http.answers import ShownUser
from marzban_bridge.simulator.panel.roles import OWNER, Permissions, Role
from marzban_bridge.simulator.panel.users import (
    GROUPS,
    SHADOWSOCKS_METHOD,
    SimulatedAdmin,
    SimulatedPlan,
    SimulatedUser,
)

KEYS_HIDDEN_FROM_SUBSCRIBERS = frozenset(
    {"note", "auto_delete_in_days", "admin", "subscription_url", "group_names"}
)
USAGE_PERIOD = timedelta(days=30)


class PasarGuardAnswers:
    """PasarGuard's users and admins, which have roles or are sudo."""

    def __init__(self, *, has_roles: bool) -> None:
        self._has_roles = has_roles

    def admin(self, admin: SimulatedAdmin, *, total_users: int) -> dict[str, Any]:
        """Return an admin with its role and its own quota."""
        lifetime_used_traffic = admin.used_before_resets + admin.users_usage
        return self._details(admin, total_users, lifetime_used_traffic)

    def acting(self, admin: SimulatedAdmin) -> dict[str, Any]:
        """Return the admin who did something; its counters are not worked out for events."""
        return self._details(admin, 0, None)

    def _details(
        self, admin: SimulatedAdmin, total_users: int, lifetime_used_traffic: int | None
    ) -> dict[str, Any]:
        details = {
            "total_users": total_users,
            "used_traffic": admin.users_usage,
            "sub_template": None,
            "lifetime_used_traffic": lifetime_used_traffic,
            "note": None,
            "is_disabled": admin.status == "disabled",
        }
        if not self._has_roles:
            contact = {k: v for k, v in _contact(admin).items() if k != "custom_variables"}
            return contact | details | {"is_sudo": admin.is_sudo, "discord_id": None}
        return (
            _contact(admin)
            | details
            | {
                "data_limit": admin.data_limit,
                "status": admin.status,
                "role": role_answer(admin.role),
                "permission_overrides": None,
                "is_limited": admin.status == "limited",
            }
        )

    def system(self) -> dict[str, Any]:
        """Return the panel itself, an owner without a number."""
        name = "system"
        itself = SimulatedAdmin(
            username=name, password="", is_sudo=True, is_in_database=False, role=OWNER
        )
        told = self.acting(itself) | {"id": None}
        role = role_answer(Role(id=0, name="", is_owner=True)) | {"id": None}
        return told | ({"role": role} if self._has_roles else {})

    def user(self, shown: ShownUser) -> dict[str, Any]:
        """Return a user; times are UTC and say so."""
        user, owner = shown.user, shown.owner
        return {
            "proxy_settings": _proxy_settings(user, shown.secret),
            "expire": time(datetime.fromtimestamp(user.expire, UTC)) if user.expire else None,
            "data_limit": user.data_limit,
            "data_limit_reset_strategy": user.data_limit_reset_strategy.value,
            "note": user.note,
            "on_hold_expire_duration": user.on_hold_expire_duration,
            "on_hold_timeout": time_without_zone(user.on_hold_timeout),
            "group_ids": list(user.group_ids),
            "auto_delete_in_days": user.auto_delete_in_days,
            "hwid_limit": user.hwid_limit,
            "next_plan": _plan(user.next_plan) if user.next_plan else None,
            "id": user.id,
            "username": user.username,
            "status": user.status.value,
            "used_traffic": user.used_traffic,
            "lifetime_used_traffic": user.lifetime_used_traffic,
            "created_at": time(user.created_at),
            "edit_at": time(user.edited_at),
            "online_at": time(user.online_at),
            "subscription_url": shown.subscription_url,
            "admin": {"id": owner.id, "username": owner.username} if owner else None,
        }

    def user_in_event(self, shown: ShownUser) -> dict[str, Any]:
        """Return a user with its groups' names and more of its owner."""
        return self.user(shown) | {
            "admin": _contact(shown.owner) if shown.owner else None,
            "group_names": [GROUPS[group_id] for group_id in shown.user.group_ids],
        }

    def subscriber(self, user: Mapping[str, Any]) -> dict[str, Any]:
        """Return the part of a user's answer that its subscription shows."""
        hidden = KEYS_HIDDEN_FROM_SUBSCRIBERS
        return {key: value for key, value in user.items() if key not in hidden} | {"ip": None}


def usage_answer(now: datetime) -> dict[str, Any]:
    """Return traffic by period: the simulated panel keeps none."""
    return {"period": "hour", "start": time(now - USAGE_PERIOD), "end": time(now), "stats": {}}


def role_answer(role: Role) -> dict[str, Any]:
    """Return what an admin's role allows."""
    return {
        "id": role.id,
        "name": role.name,
        "is_owner": role.is_owner,
        "permissions": permissions_answer(role.permissions),
        "limits": dict.fromkeys(
            (
                *("max_users", "data_limit_min", "data_limit_max", "expire_min", "expire_max"),
                *("min_hwid_per_user", "max_hwid_per_user"),
                *("on_hold_timeout_min", "on_hold_timeout_max"),
            )
        ),
        "features": {"can_use_reset_strategy": True, "can_use_next_plan": True},
        "access": {
            "require_template": False,
            "allowed_template_ids": None,
            "allowed_group_ids": None,
        },
        "hwid": {
            "enabled": True,
            "forced": False,
            "require_hwid_for_manual_sub": False,
            "fallback_limit": None,
            "min_limit": None,
            "max_limit": None,
            "mode": "use_global",
        },
        "disabled_when_limited": role.disabled_when_limited,
        "disconnect_users_when_limited": role.disconnect_users_when_limited,
        "disconnect_users_when_disabled": role.disconnect_users_when_disabled,
    }


def time(at: datetime | None) -> str | None:
    """Return a moment as the panel writes it."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z") if at else None


def time_without_zone(at: datetime | None) -> str | None:
    """Return a moment as the panel writes some: UTC without saying so."""
    return at.astimezone(UTC).replace(tzinfo=None).isoformat() if at else None


def permissions_answer(permissions: Permissions) -> dict[str, Any]:
    """Return permissions with every action there is, null where it is not allowed."""
    return {
        resource: {action: allowed.get(action) for action in actions} if allowed else None
        for resource, actions in OWNER.permissions.items()
        for allowed in [permissions.get(resource)]
    }


def _contact(admin: SimulatedAdmin) -> dict[str, Any]:
    return {
        "id": admin.id,
        "username": admin.username,
        "telegram_id": None,
        "discord_webhook": None,
        "sub_domain": None,
        "profile_title": None,
        "support_url": None,
        "custom_variables": [],
        "notification_enable": None,
    }


def _plan(plan: SimulatedPlan) -> dict[str, Any]:
    return {
        "user_template_id": plan.user_template_id,
        "data_limit": plan.data_limit,
        "expire": plan.expire,
        "add_remaining_traffic": plan.add_remaining_traffic,
    }


def _proxy_settings(user: SimulatedUser, secret: str) -> dict[str, Any]:
    """Return the credentials: made up for the user, again and again the same until revoked."""
    made_up = {
        protocol: uuid5(NAMESPACE_OID, f"{secret} {user.id} {protocol} {user.sub_revoked_at}")
        for protocol in ("vmess", "vless", "trojan", "shadowsocks", "hysteria")
    }
    texts = {
        protocol: base64.urlsafe_b64encode(made.bytes).decode().rstrip("=")
        for protocol, made in made_up.items()
    }
    settings: dict[str, dict[str, Any]] = {
        "vmess": {"id": str(made_up["vmess"])},
        "vless": {"id": str(made_up["vless"])},
        "trojan": {"password": texts["trojan"]},
        "shadowsocks": {"password": texts["shadowsocks"], "method": SHADOWSOCKS_METHOD},
        "wireguard": {"private_key": None, "public_key": None, "peer_ips": []},
        "hysteria": {"auth": texts["hysteria"]},
    }
    return {protocol: made | user.proxies.get(protocol, {}) for protocol, made in settings.items()}
