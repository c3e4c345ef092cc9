"""How a simulated PasarGuard shows its API keys."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from marzban_bridge.simulator.http.pasarguard_answers import permissions_answer, time_without_zone
from marzban_bridge.simulator.panel.api_keys import ApiKey


def key_answer(key: ApiKey, *, admin_id: int, now: datetime) -> dict[str, Any]:
    """Return a key as the API shows it afterwards."""
    return {
        "name": key.name,
        "note": key.note,
        "permissions": permissions_answer(key.permissions or {}),
        "inherit_permissions": key.permissions is None,
        "expire_date": time_without_zone(key.expire_date),
        "id": key.id,
        "admin_id": admin_id,
        "created_at": time_without_zone(key.created_at),
        "api_key_trimmed": f"{key.key[:10]}***{key.key[-3:]}",
        "revoked_at": time_without_zone(key.revoked_at),
        "status": key.status,
        "is_expired": key.expire_date is not None and key.expire_date <= now,
    }
