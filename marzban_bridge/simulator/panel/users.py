"""What the simulated panel keeps of users and admins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from marzban_bridge.panels.users import ResetStrategy, Status
from marzban_bridge.simulator.panel.roles import OPERATOR, Role

INBOUNDS: dict[str, list[str]] = {
    "vless": ["VLESS TCP"],
    "vmess": ["VMess WS"],
    "shadowsocks": ["Shadowsocks TCP"],
}
"""The tags of the simulated xray's inbounds, by protocol."""

SHADOWSOCKS_METHOD = "chacha20-ietf-poly1305"
GROUPS: dict[int, str] = {1: "group-1", 2: "group-2"}
"""The simulated PasarGuard's groups, by id; they stand for inbounds."""

XRAY_STATUSES = frozenset({Status.ACTIVE, Status.ON_HOLD})
"""Users of these states belong into xray."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedPlan:
    """A next plan, spelt as the panel spells it."""

    data_limit: int
    expire: int | None = None
    add_remaining_traffic: bool = False
    fire_on_either: bool = True
    """Marzban's alone."""
    user_template_id: int | None = None
    """PasarGuard's alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedTemplate:
    """A template that a PasarGuard's next plan can point to."""

    id: int
    name: str
    data_limit: int = 0
    expire_duration: int = 0
    group_ids: tuple[int, ...] = (1,)
    status: Status = Status.ACTIVE
    on_hold_timeout: int | None = None
    data_limit_reset_strategy: ResetStrategy = ResetStrategy.NO_RESET


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetLog:
    """What a user had used when it was reset."""

    used_traffic: int
    reset_at: datetime


@dataclass(slots=True, kw_only=True)
class SimulatedAdmin:
    """An admin; the environment's may have no database row, and then owns no users."""

    username: str
    password: str
    is_sudo: bool
    is_in_database: bool
    users_usage: int = 0
    """What its users used on the nodes; PasarGuard's `used_traffic`."""
    id: int = 0
    role: Role = OPERATOR
    """PasarGuard's alone, as all that follows."""
    data_limit: int | None = None
    status: str = "active"
    used_before_resets: int = 0

    @property
    def is_over_its_limit(self) -> bool:
        """Whether its users have used what the admin may sell."""
        return bool(self.data_limit) and self.users_usage >= (self.data_limit or 0)

    @property
    def cuts_users_off(self) -> bool:
        """Whether the admin's own state keeps its users off the nodes, whatever theirs is."""
        return (self.status == "limited" and self.role.disconnect_users_when_limited) or (
            self.status == "disabled" and self.role.disconnect_users_when_disabled
        )


@dataclass(slots=True, kw_only=True)
class SimulatedUser:
    """A row of the panel's user table, with what belongs to it; bytes, unix seconds, aware UTC."""

    id: int
    username: str
    created_at: datetime | None
    status: Status = Status.ACTIVE
    data_limit: int | None = None
    used_traffic: int = 0
    data_limit_reset_strategy: ResetStrategy = ResetStrategy.NO_RESET
    expire: int | None = None
    note: str | None = None
    on_hold_expire_duration: int | None = None
    on_hold_timeout: datetime | None = None
    auto_delete_in_days: int | None = None
    next_plan: SimulatedPlan | None = None
    owner: str | None = None
    proxies: dict[str, dict[str, Any]] = field(default_factory=dict)
    inbounds: dict[str, list[str]] = field(default_factory=dict)
    group_ids: list[int] = field(default_factory=list)
    hwid_limit: int | None = None
    reset_logs: list[ResetLog] = field(default_factory=list)
    edited_at: datetime | None = None
    online_at: datetime | None = None
    sub_updated_at: datetime | None = None
    sub_last_user_agent: str | None = None
    sub_revoked_at: datetime | None = None
    in_xray: bool = False
    """Whether the panel's nodes let the user through; only then it can use traffic there."""
    is_reminded_of_usage: bool = False
    is_reminded_of_expiry: bool = False

    @property
    def lifetime_used_traffic(self) -> int:
        """What was used in all periods the log still knows, plus the current one."""
        return self.used_traffic + sum(log.used_traffic for log in self.reset_logs)


def all_inbounds(protocols: Iterable[str]) -> dict[str, list[str]]:
    """Return every inbound of the given protocols, by protocol."""
    return {protocol: list(INBOUNDS.get(protocol, [])) for protocol in protocols}
