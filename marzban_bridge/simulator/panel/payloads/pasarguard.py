"""What PasarGuard accepts as a user.

PasarGuard 5.2.1: unknown keys are ignored; numbers may come as text, but not with a fraction; null
is the same as absent; times come as ISO text or as seconds.
"""

from __future__ import annotations

from collections.abc import Container
from datetime import datetime, timedelta
from typing import Any

from marzban_bridge.panels.users import ResetStrategy, Status
from marzban_bridge.simulator.panel.dialect import PASARGUARD
from marzban_bridge.simulator.panel.errors import RefusedError
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
from marzban_bridge.simulator.panel.users import GROUPS, SimulatedPlan, SimulatedTemplate

NOTE_LENGTH = 500
LONGEST_HOLD_SECONDS = 2**31 - 1
PROTOCOLS = ("vmess", "vless", "trojan", "shadowsocks", "wireguard", "hysteria")


class PayloadReader:
    """Reads the users of one panel: its templates, clock and database decide what is accepted."""

    def __init__(
        self, *, now: datetime, templates: Container[int], too_large: RefusedError
    ) -> None:
        self._now = now
        self._templates = templates
        self._too_large = too_large

    def changes(self, body: object) -> UserChanges:
        """Read the body of a PUT; RefusedError 422, or 404 for a group or template not there."""
        statuses = (Status.ACTIVE, Status.DISABLED, Status.ON_HOLD)
        return self._changes(Fields(body), statuses=statuses)

    def new_user(self, body: object) -> tuple[str, UserChanges, int | None]:
        """Read a user to create: its name, its fields and `auto_delete_in_days`."""
        fields = Fields(body)
        if "username" not in fields.body:
            fields.wrong["username"] = "Field required"
        username = fields.read_even_null("username", _username)
        auto_delete_in_days = fields.read("auto_delete_in_days", integer)
        if "group_ids" in fields.body and not fields.body["group_ids"]:
            fields.wrong["group_ids"] = "Value error, you must select at least one group"
        changes = self._changes(fields, statuses=(Status.ACTIVE, Status.ON_HOLD))
        return username or "", changes, auto_delete_in_days

    def _changes(self, fields: Fields, *, statuses: tuple[Status, ...]) -> UserChanges:
        data_limit = fields.read("data_limit", _not_negative)
        expire = fields.read("expire", _seconds)
        duration = fields.read("on_hold_expire_duration", _hold) or None
        status = fields.read("status", one_of(statuses))
        if status is Status.ON_HOLD and not duration:
            fields.wrong["status"] = "Value error, on hold needs on_hold_expire_duration"
        elif status is Status.ON_HOLD and expire:
            fields.wrong["status"] = "Value error, on hold excludes expire"
        changes = UserChanges(
            status=status,
            data_limit=data_limit,
            expire=expire,
            note=fields.read("note", text_up_to(NOTE_LENGTH)),
            data_limit_reset_strategy=fields.read(
                "data_limit_reset_strategy", one_of(tuple(ResetStrategy))
            ),
            on_hold_timeout=fields.read("on_hold_timeout", self._timeout),
            on_hold_expire_duration=duration,
            next_plan=fields.read("next_plan", _next_plan),
            proxies=fields.read("proxy_settings", _proxy_settings),
            group_ids=fields.read("group_ids", _ids),
            hwid_limit=fields.read("hwid_limit", integer),
        )
        fields.finish()
        if set(changes.group_ids or ()) - set(GROUPS):
            raise RefusedError(404, "Group not found")
        template_id = changes.next_plan.user_template_id if changes.next_plan else None
        if template_id is not None and template_id not in self._templates:
            raise RefusedError(404, "User Template not found")
        if max(data_limit or 0, expire or 0) > LARGEST_INTEGER:
            raise self._too_large
        return changes

    def _timeout(self, value: Any) -> datetime | None:
        """Read when a hold ends; a number is seconds from now, and 0 leaves it as it is."""
        if isinstance(value, str):
            return moment(value)
        seconds = integer(value)
        return self._now + timedelta(seconds=seconds) if seconds else None


def parse_template(template_id: int, body: object) -> SimulatedTemplate:
    """Read a template to create; RefusedError 422."""
    fields = Fields(body)
    for name in ("name", "group_ids"):
        if not fields.body.get(name):
            fields.wrong[name] = "Field required"
    template = SimulatedTemplate(
        id=template_id,
        name=fields.read("name", text_up_to(64)) or "",
        data_limit=fields.read("data_limit", _not_negative) or 0,
        expire_duration=fields.read("expire_duration", _hold) or 0,
        group_ids=tuple(fields.read("group_ids", _ids) or ()),
        status=fields.read("status", one_of((Status.ACTIVE, Status.ON_HOLD))) or Status.ACTIVE,
        on_hold_timeout=fields.read("on_hold_timeout", integer),
        data_limit_reset_strategy=fields.read(
            "data_limit_reset_strategy", one_of(tuple(ResetStrategy))
        )
        or ResetStrategy.NO_RESET,
    )
    fields.finish()
    return template


def _not_negative(value: Any) -> int:
    number = integer(value)
    if number < 0:
        raise ValueError("Input should be greater than or equal to 0")
    return number


def _hold(value: Any) -> int:
    number = _not_negative(value)
    if number > LONGEST_HOLD_SECONDS:
        raise ValueError(f"Input should be less than or equal to {LONGEST_HOLD_SECONDS}")
    return number


def _seconds(value: Any) -> int:
    """Read a moment as unix seconds: a number, a number as text, or ISO text."""
    if isinstance(value, int | float):
        return int(value)
    if isinstance(value, str) and value.strip().isdigit():
        return int(value)
    return int(moment(value).timestamp())


def _username(value: Any) -> str:
    if not isinstance(value, str) or not PASARGUARD.names.fullmatch(value):
        raise ValueError(f"Value error, expected {PASARGUARD.name_rule}")
    return value


def _ids(value: Any) -> list[int]:
    if not isinstance(value, list):
        raise TypeError("Input should be a valid list")
    return [integer(each) for each in value]


def _proxy_settings(value: Any) -> dict[str, dict[str, Any]]:
    given = json_object(value)
    return {
        protocol: dict(json_object(given[protocol])) for protocol in PROTOCOLS if protocol in given
    }


def _next_plan(value: Any) -> SimulatedPlan:
    plan = Fields(json_object(value))
    found = SimulatedPlan(
        user_template_id=plan.read("user_template_id", integer),
        data_limit=plan.read("data_limit", integer) or 0,
        expire=plan.read("expire", integer),
        add_remaining_traffic=bool(plan.body.get("add_remaining_traffic", False)),
    )
    plan.finish()
    return found
