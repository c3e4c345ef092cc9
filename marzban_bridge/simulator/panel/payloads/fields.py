"""Reads a request's JSON field by field and tells which fields are wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from marzban_bridge.simulator.panel.errors import RefusedError

LARGEST_INTEGER = 2**63 - 1
"""What fits into a panel's database; the panel breaks on more."""

Parsed = TypeVar("Parsed")


class Fields:
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


def json_object(value: Any) -> Mapping[str, Any]:
    """Return a JSON object; TypeError for anything else."""
    if not isinstance(value, Mapping):
        raise TypeError("expected an object")
    return value


def integer(value: Any) -> int:
    """Return a whole number, also one written as text; ValueError for a fraction."""
    if isinstance(value, float) and not value.is_integer():
        raise ValueError("expected a whole number")
    return int(value)


def text_up_to(length: int) -> Callable[[Any], str]:
    """Return a reader of text of at most so many characters; it raises ValueError."""

    def parse(value: Any) -> str:
        if not isinstance(value, str) or len(value) > length:
            raise ValueError(f"expected text of at most {length} characters")
        return value

    return parse


def moment(value: Any) -> datetime:
    """Return a moment from ISO text, UTC unless it says otherwise; ValueError, TypeError."""
    at = datetime.fromisoformat(value)
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


Choice = TypeVar("Choice", bound=StrEnum)


def one_of(choices: tuple[Choice, ...]) -> Callable[[Any], Choice]:
    """Return a reader of one of these words; it raises ValueError."""

    def parse(value: Any) -> Choice:
        for choice in choices:
            if value == choice.value:
                return choice
        raise ValueError(f"expected one of {', '.join(choices)}")

    return parse
