"""Builders of bridge values with ordinary defaults; a test names only what it is about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from marzban_bridge.panels.users import NextPlan, PanelUser, ResetStrategy, Status
from marzban_bridge.quota.account import GIB, Account, OpenWrite, snapshot_of
from marzban_bridge.quota.usage import Totals

NOW = datetime(2026, 5, 20, 12, 0, tzinfo=UTC)
CREATED_AT = datetime(2026, 5, 1, 9, 30, tzinfo=UTC)


def gib(number: float) -> int:
    return int(number * GIB)


def panel_user(**fields: Any) -> PanelUser:
    used_bytes = fields.pop("used_bytes", 0)
    defaults: dict[str, Any] = {
        "username": "alice",
        "status": Status.ACTIVE,
        "data_limit_bytes": gib(10),
        "used_bytes": used_bytes,
        "lifetime_bytes": fields.pop("logged_bytes", 0) + used_bytes,
        "reset_strategy": ResetStrategy.NO_RESET,
        "created_at": CREATED_AT,
    }
    return PanelUser(**(defaults | fields))


def account(user: PanelUser | None = None, **fields: Any) -> Account:
    user = user or panel_user()
    seen_at = fields.pop("seen_at", NOW)
    defaults: dict[str, Any] = {
        "username": user.username,
        "created_at": user.created_at,
        "admin": user.admin,
        "quota_bytes": gib(10),
        "baseline_bytes": 0,
        "seen_total_bytes": 0,
        "period_started_at": CREATED_AT,
        "sighting": snapshot_of(user, seen_at=seen_at),
    }
    defaults["raw_baseline_bytes"] = fields.get("baseline_bytes", 0)
    defaults["seen_raw_bytes"] = fields.get("seen_total_bytes", 0)
    return Account(**(defaults | fields))


def open_write(**fields: Any) -> OpenWrite:
    """Return a write that may still be carried out for ten minutes."""
    defaults: dict[str, Any] = {
        "data_limit_bytes": None,
        "status": None,
        "may_land_until": NOW + timedelta(minutes=10),
    }
    return OpenWrite(**(defaults | fields))


def as_reported(total_bytes: int) -> Totals:
    """Return totals of servers without ratios."""
    return Totals(billed_bytes=total_bytes, raw_bytes=total_bytes)


def next_plan(**fields: Any) -> NextPlan:
    defaults: dict[str, Any] = {
        "data_limit_bytes": gib(20),
        "expire": 0,
        "adds_remaining_traffic": True,
        "fires_on_either": True,
    }
    values = defaults | fields
    panel_fields = {
        "data_limit": values["data_limit_bytes"],
        "expire": values["expire"],
        "add_remaining_traffic": values["adds_remaining_traffic"],
        "fire_on_either": values["fires_on_either"],
    }
    return NextPlan(**values, panel_fields=panel_fields)
