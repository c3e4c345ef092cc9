"""Reads single values out of a panel's JSON, of either kind: what is not as it should be is told.

Each raises TypeError or ValueError, which `expecting` makes a PanelError of.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import httpx

from marzban_bridge.errors import PanelError

MAX_NUMBER = 2**60
"""Beyond any quota, moment or counter of a panel; sums of a few still fit 64 bits."""
MAX_NAME_LENGTH = 255
MAX_REASON_LENGTH = 200
IS_IT_ONE = "is MARZBAN_URL a Marzban panel, or a PasarGuard?"


@contextmanager
def expecting(what: str, kind: type[PanelError] = PanelError) -> Iterator[None]:
    """Make of an answer with another shape, whichever way it surprises, a PanelError."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__} {error}"[:MAX_REASON_LENGTH]
        raise kind(
            f"the panel's {what} is not as Marzban 0.8.4 or PasarGuard 5.2.1 gives it ({reason}): "
            f"{IS_IT_ONE}"
        ) from error


def json_of(response: httpx.Response) -> Any:
    """Return the answer's JSON; PanelError for what a proxy or another program may answer."""
    try:
        return response.json()
    except (ValueError, RecursionError) as error:
        raise PanelError(
            f"{response.request.url.copy_with(query=None)} answers {response.status_code} with "
            f"something that is not JSON: {IS_IT_ONE}"
        ) from error


def bearer_of(response: httpx.Response) -> str:
    """Read the token of a sign-in's answer; PanelError when there is none that fits a header."""
    data = json_of(response)
    with expecting("answer to a sign-in"):
        token = data["access_token"]
        if not isinstance(token, str) or not token or not (token.isascii() and token.isprintable()):
            raise ValueError("no token")
        return token


def name_in(item: Any) -> str | None:
    """Return the name of a user of a list; None where there is none."""
    with suppress(LookupError, TypeError, ValueError):
        return name_of(item["username"])
    return None


def whole(value: object) -> int:
    """Return a number within the bounds of an account."""
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_NUMBER:
        raise ValueError("a number is expected where there is none")
    return value


def whole_or_none(value: object) -> int | None:
    """Return such a number, or None for none."""
    return None if value is None else whole(value)


def amount_of(value: object) -> int:
    """Return a number of bytes that were used, or may be."""
    amount = whole(value)
    if amount < 0:
        raise ValueError(f"{amount} bytes are expected where there are none below zero")
    return amount


def text_of(value: object) -> str:
    """Return a text that can be stored and sent."""
    if not isinstance(value, str):
        raise TypeError("a text is expected where there is none")
    value.encode()
    return value


def name_of(value: object) -> str:
    """Return a user's name."""
    name = text_of(value)
    if not name or not name.isprintable() or len(name) > MAX_NAME_LENGTH:
        raise ValueError("no username")
    return name


def utc(text: str) -> datetime:
    """Return a moment; one without a time zone is UTC."""
    at = datetime.fromisoformat(text)
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def time_or_none(found: object) -> datetime | None:
    """Return a moment that decides little; None where it cannot be read."""
    try:
        return utc(found) if isinstance(found, str) else None
    except (ValueError, OverflowError):
        return None
