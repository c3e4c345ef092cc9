"""What the panel accepts as a user: JSON in, values out, or a 422 that names the fields.

Marzban 0.8.4: unknown keys are ignored; numbers may come as text except for `data_limit`;
`status` and `data_limit_reset_strategy` may be absent but not null.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from marzban_bridge.panels.port import ResetStrategy, Status
from marzban_bridge.simulator.panel.errors import RefusedError, failure
from marzban_bridge.simulator.panel.rules import UserChanges
from marzban_bridge.simulator.panel.users import INBOUNDS, SimulatedPlan, all_inbounds

PROTOCOLS = frozenset({"vless", "vmess", "trojan", "shadowsocks"})
NOTE_LENGTH = 500
LARGEST_INTEGER = 2**63 - 1
"""What fits into the panel's database; the panel breaks on more."""

_USERNAME = re.compile(r"(?=\w{3,32}\b)[A-Za-z0-9_@.-]+", re.ASCII)

Parsed = TypeVar("Parsed")


class _Fields:
    """Reads fields of one JSON object and collects what is wrong with them."""

    def __init__(self, body: object) -> None:
        if not isinstance(body, Mapping):
            raise RefusedError(422, {"body": "expected an object"})
        self.body: Mapping[str, Any] = body
        self.wrong: dict[str, str] = {}

    def read(self, name: str, parse: Callable[[Any], Parsed]) -> Parsed | None:
        """Return the parsed field; None when it is absent, null or wrong."""
        if self.body.get(name) is None:
            return None
        return self.read_even_null(name, parse)

    def read_even_null(self, name: str, parse: Callable[[Any], Parsed]) -> Parsed | None:
        """Like `read`, but null is for `parse` to judge."""
        if name not in self.body:
            return None
        try:
            return parse(self.body[name])
        except (TypeError, ValueError, OverflowError) as error:
            self.wrong[name] = str(error)
            return None

    def finish(self) -> None:
        """Raise RefusedError 422 if anything was wrong."""
        if self.wrong:
            raise RefusedError(422, self.wrong)


def parse_changes(body: object) -> UserChanges:
    """Read the body of a PUT; RefusedError 422, or 500 where the panel breaks."""
    fields = _Fields(body)
    statuses = (Status.ACTIVE, Status.DISABLED, Status.ON_HOLD)
    return _changes(fields, statuses=statuses, without_plan_limit=failure())


def parse_new_user(body: object) -> tuple[str, UserChanges, int | None]:
    """Read a user to create: its name, its fields and `auto_delete_in_days`.

    Raises RefusedError 422, 400 for a protocol without an inbound, or 500 where the panel breaks.
    """
    fields = _Fields(body)
    if "username" not in fields.body:
        fields.wrong["username"] = "Field required"
    username = fields.read_even_null("username", _username)
    auto_delete_in_days = fields.read("auto_delete_in_days", _integer)
    if fields.body.get("proxies") == {}:
        fields.wrong["proxies"] = "at least one protocol is needed"
    changes = _changes(
        fields,
        statuses=(Status.ACTIVE, Status.ON_HOLD),
        without_plan_limit=RefusedError(409, "User already exists"),
    )
    return username or "", changes, auto_delete_in_days


def _changes(
    fields: _Fields, *, statuses: tuple[Status, ...], without_plan_limit: RefusedError
) -> UserChanges:
    proxies = fields.read("proxies", _proxies)
    inbounds = fields.read("inbounds", _inbounds)
    data_limit = fields.read("data_limit", _data_limit)
    expire = fields.read("expire", _integer)
    duration = fields.read("on_hold_expire_duration", _integer) or None
    timeout = fields.read("on_hold_timeout", _moment)
    note = fields.read("note", _note)
    next_plan = fields.read("next_plan", _next_plan)
    strategy = fields.read_even_null("data_limit_reset_strategy", _one_of(tuple(ResetStrategy)))
    status = fields.read_even_null("status", _one_of(statuses))
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


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError("expected an object")
    return value


def _integer(value: Any) -> int:
    if isinstance(value, float) and not value.is_integer():
        raise ValueError("expected a whole number")
    return int(value)


def _data_limit(value: Any) -> int:
    if isinstance(value, str):
        raise TypeError("expected a number, not text")
    number = int(value)
    if number < 0:
        raise ValueError("expected 0 or more")
    return number


def _note(value: Any) -> str:
    if not isinstance(value, str) or len(value) > NOTE_LENGTH:
        raise ValueError(f"expected text of at most {NOTE_LENGTH} characters")
    return value


def _username(value: Any) -> str:
    if not isinstance(value, str) or not _USERNAME.fullmatch(value):
        raise ValueError("expected 3 to 32 letters, digits and underscores to begin with")
    return value


def _moment(value: Any) -> datetime | None:
    if value == 0:
        return None
    moment = datetime.fromisoformat(value)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


Choice = TypeVar("Choice", bound=StrEnum)


def _one_of(choices: tuple[Choice, ...]) -> Callable[[Any], Choice]:
    def parse(value: Any) -> Choice:
        for choice in choices:
            if value == choice.value:
                return choice
        raise ValueError(f"expected one of {', '.join(choices)}")

    return parse


def _proxies(value: Any) -> dict[str, dict[str, Any]]:
    for protocol, settings in _object(value).items():
        if protocol not in PROTOCOLS:
            raise ValueError(f"{protocol} is not a protocol")
        _object(settings or {})
    return {protocol: dict(settings or {}) for protocol, settings in value.items()}


def _inbounds(value: Any) -> dict[str, list[str]]:
    known = [tag for tags in INBOUNDS.values() for tag in tags]
    for tags in _object(value).values():
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
    plan = _Fields(_object(value))
    data_limit = plan.read("data_limit", _integer)
    expire = plan.read("expire", _integer)
    plan.finish()
    return SimulatedPlan(
        data_limit=data_limit or 0,
        expire=expire,
        add_remaining_traffic=bool(plan.body.get("add_remaining_traffic", False)),
        fire_on_either=bool(plan.body.get("fire_on_either", True)),
    )
