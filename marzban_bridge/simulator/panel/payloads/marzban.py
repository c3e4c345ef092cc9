"""What Marzban accepts as a user.

Marzban 0.8.4: unknown keys are ignored; numbers may come as text except for `data_limit`;
`status` and `data_limit_reset_strategy` may be absent but not null.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from marzban_bridge.panels.users import ResetStrategy, Status
from marzban_bridge.simulator.panel.dialect import MARZBAN
from marzban_bridge.simulator.panel.errors import RefusedError, failure
from marzban_bridge.simulator.panel.payloads.fields import (
    LARGEST_INTEGER,
    Fields,
    integer,
    json_object,
    moment,
    one_of,
    text_up_to,
)
from marzban_bridge.simulator.panel.rules import UserChanges
from marzban_bridge.simulator.panel.users import INBOUNDS, SimulatedPlan, all_inbounds

PROTOCOLS = frozenset({"vless", "vmess", "trojan", "shadowsocks"})
NOTE_LENGTH = 500


def parse_changes(body: object) -> UserChanges:
    """Read the body of a PUT; RefusedError 422, or 500 where the panel breaks."""
    fields = Fields(body)
    statuses = (Status.ACTIVE, Status.DISABLED, Status.ON_HOLD)
    return _changes(fields, statuses=statuses, without_plan_limit=failure())


def parse_new_user(body: object) -> tuple[str, UserChanges, int | None]:
    """Read a user to create: its name, its fields and `auto_delete_in_days`.

    Raises RefusedError 422, 400 for a protocol without an inbound, or 500 where the panel breaks.
    """
    fields = Fields(body)
    if "username" not in fields.body:
        fields.wrong["username"] = "Field required"
    username = fields.read_even_null("username", _username)
    auto_delete_in_days = fields.read("auto_delete_in_days", integer)
    if fields.body.get("proxies") == {}:
        fields.wrong["proxies"] = "at least one protocol is needed"
    changes = _changes(
        fields,
        statuses=(Status.ACTIVE, Status.ON_HOLD),
        without_plan_limit=RefusedError(409, "User already exists"),
    )
    return username or "", changes, auto_delete_in_days


def _changes(
    fields: Fields, *, statuses: tuple[Status, ...], without_plan_limit: RefusedError
) -> UserChanges:
    proxies = fields.read("proxies", _proxies)
    inbounds = fields.read("inbounds", _inbounds)
    data_limit = fields.read("data_limit", _data_limit)
    expire = fields.read("expire", integer)
    duration = fields.read("on_hold_expire_duration", integer) or None
    timeout = fields.read("on_hold_timeout", _moment_or_none)
    note = fields.read("note", text_up_to(NOTE_LENGTH))
    next_plan = fields.read("next_plan", _next_plan)
    strategy = fields.read_even_null("data_limit_reset_strategy", one_of(tuple(ResetStrategy)))
    status = fields.read_even_null("status", one_of(statuses))
    if status is Status.ON_HOLD and not duration:
        fields.wrong["status"] = "on_hold needs on_hold_expire_duration"
    elif status is Status.ON_HOLD and expire:
        fields.wrong["status"] = "on_hold excludes expire"
    fields.finish()
    for protocol in proxies or {}:
        if protocol not in INBOUNDS:
            raise RefusedError(400, f"protocol {protocol} has no inbound")
    if next_plan and fields.body["next_plan"].get("data_limit") is None:
        raise without_plan_limit  # the panel's database refuses the null
    if max(data_limit or 0, expire or 0, duration or 0) > LARGEST_INTEGER:
        raise failure()
    return UserChanges(
        status=status,
        data_limit=data_limit,
        expire=expire,
        note=note,
        data_limit_reset_strategy=strategy,
        on_hold_timeout=timeout,
        on_hold_expire_duration=duration,
        next_plan=next_plan,
        proxies=proxies,
        inbounds=inbounds,
    )


def _data_limit(value: Any) -> int:
    if isinstance(value, str):
        raise TypeError("expected a number, not text")
    number = int(value)
    if number < 0:
        raise ValueError("expected 0 or more")
    return number


def _username(value: Any) -> str:
    if not isinstance(value, str) or not MARZBAN.names.fullmatch(value):
        raise ValueError(f"expected {MARZBAN.name_rule}")
    return value


def _moment_or_none(value: Any) -> datetime | None:
    return None if value == 0 else moment(value)


def _proxies(value: Any) -> dict[str, dict[str, Any]]:
    for protocol, settings in json_object(value).items():
        if protocol not in PROTOCOLS:
            raise ValueError(f"{protocol} is not a protocol")
        json_object(settings or {})
    return {protocol: dict(settings or {}) for protocol, settings in value.items()}


def _inbounds(value: Any) -> dict[str, list[str]]:
    known = [tag for tags in INBOUNDS.values() for tag in tags]
    for tags in json_object(value).values():
        if not isinstance(tags, list):
            raise TypeError("expected lists of tags")
        for tag in tags:
            if tag not in known:
                raise ValueError(f"there is no inbound {tag}")
    return {protocol: list(tags) for protocol, tags in value.items()}


def inbounds_of_new_user(changes: UserChanges) -> dict[str, list[str]]:
    """Return what a created user may use: everything for protocols whose inbounds were not listed.

    Marzban 0.8.4: without an `inbounds` key in the request it is nothing at all.
    """
    proxies = changes.proxies or {}
    if changes.inbounds is None:
        return {protocol: [] for protocol in proxies}
    return all_inbounds(proxies) | {
        protocol: tags
        for protocol, tags in changes.inbounds.items()
        if tags and protocol in proxies
    }


def _next_plan(value: Any) -> SimulatedPlan:
    plan = Fields(json_object(value))
    data_limit = plan.read("data_limit", integer)
    expire = plan.read("expire", integer)
    plan.finish()
    return SimulatedPlan(
        data_limit=data_limit or 0,
        expire=expire,
        add_remaining_traffic=bool(plan.body.get("add_remaining_traffic", False)),
        fire_on_either=bool(plan.body.get("fire_on_either", True)),
    )
