"""The kinds of values that can be configured, each read from text and from TOML in one place.

Text, of an environment variable, is read generously: `yes` is true. TOML has types of its own and
is read strictly: `"8080"` is no number there. Each raises ValueError that says what is expected.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import httpx

from collector.runtime.config import did_you_mean

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

LONGEST_SHOWN = 16
"""What is longer is not repeated in an error: it may be a secret in the wrong place."""
SPOKEN = {"1": True, "true": True, "yes": True, "on": True} | {
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """What a value may be."""

    of_text: Callable[[str], T]
    """Reads the text of a variable; ValueError says what is expected."""
    of_toml: Callable[[Any], T]
    """Reads a value of a TOML file; likewise."""
    empty: Any = None
    """What an empty default stands for."""


def whole(least: int, most: int, *, expected: str = "") -> Kind[int]:
    """Return the kind of whole numbers within bounds, both included."""
    expected = expected or f"expected a whole number from {least} to {most}"

    def check(given: object, number: object) -> int:
        if type(number) is not int or not least <= number <= most:
            raise ValueError(expected + _instead_of(given))
        return number

    return Kind(lambda raw: check(raw, _number(int, raw)), lambda value: check(value, value))


def number(least: float, most: float, *, expected: str) -> Kind[float]:
    """Return the kind of numbers within bounds, both included."""

    def check(given: object, number: Any) -> float:
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if is_number and least <= number <= most:  # not a number (nan) is in no bounds
            return float(number)
        raise ValueError(expected + _instead_of(given))

    return Kind(lambda raw: check(raw, _number(float, raw)), lambda value: check(value, value))


def seconds(least: float, most: float) -> Kind[float]:
    """Return the kind of durations within bounds, in seconds."""
    return number(least, most, expected=f"expected a number of seconds from {least:g} to {most:g}")


def _number(kind: Callable[[str], float], raw: str) -> float | None:
    try:
        return kind(raw)
    except ValueError:
        return None


def _flag_of_text(raw: str) -> bool:
    found = SPOKEN.get(raw.casefold())
    if found is None:
        raise ValueError("expected true or false" + _instead_of(raw))
    return found


def _flag_of_toml(value: object) -> bool:
    if value is True or value is False:
        return value
    raise ValueError("expected true or false, without quotes" + _instead_of(value))


FLAG = Kind(_flag_of_text, _flag_of_toml)


def text(
    read: Callable[[str], T], *, expected: str = "expected a text in quotes", empty: Any = ""
) -> Kind[T]:
    """Return the kind of texts that a function reads; it raises ValueError for what is none."""

    def of_toml(value: object) -> T:
        if not isinstance(value, str) or not value:
            raise ValueError(expected)
        return read(value)

    return Kind(read, of_toml, empty)


def _text_of_toml(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("expected a text in quotes")


TEXT = text(str)
"""Any text but an empty one, taken as it is."""
ANY_TEXT = Kind(str, _text_of_toml, "")
"""Any text, also an empty one."""
PATH = text(Path, expected="expected the name of a file, in quotes", empty=None)


def line(longest: int, *, is_trimmed: bool = False) -> Kind[str]:
    """Return the kind of names and other texts that go on one line, of so many characters."""
    expected = f"expected 1 to {longest} printable characters, the last no backslash"
    if is_trimmed:
        expected += ", the first and last no blank"

    def read(raw: str) -> str:
        is_fit = 0 < len(raw) <= longest and raw.isprintable() and not raw.endswith("\\")
        if not is_fit or (is_trimmed and raw != raw.strip()):
            raise ValueError(expected)
        return raw

    return text(read, expected=expected)


LINE = line(4096)
"""A path, or another long text on one line."""


def one_of(words: tuple[str, ...]) -> Kind[str]:
    """Return the kind of some words and no others."""

    def read(given: object) -> str:
        if given not in words:
            meant = did_you_mean(given, words) if isinstance(given, str) else ""
            raise ValueError(f"expected one of {', '.join(words)}{_instead_of(given)}{meant}")
        return str(given)

    return Kind(read, read)


def member_of(words: type[E]) -> Kind[E]:
    """Return the kind of an enumeration's values."""
    kind = one_of(tuple(each.value for each in words))
    return Kind(lambda raw: words(kind.of_text(raw)), lambda value: words(kind.of_toml(value)))


def optional(kind: Kind[T]) -> Kind[T | None]:
    """Return the kind of what may be left out: empty is None."""
    return Kind(kind.of_text, kind.of_toml, None)


def url(*schemes: str, example: str) -> Kind[str]:
    """Return the kind of addresses with one of some schemes.

    A name and a password have no place in them: addresses stand in logs.
    """

    def read(raw: str) -> str:
        try:
            parts = urlsplit(raw)
            httpx.URL(raw)
            is_whole = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
        except (ValueError, httpx.InvalidURL):  # not repeated: there may be a password in it
            is_whole = False
        if not is_whole or not raw.isprintable() or " " in raw:
            raise ValueError(f"expected a URL such as {example}")
        if parts.username is not None or parts.password is not None:
            raise ValueError("a URL with a name and password in it would end up in logs")
        return raw

    return text(read, expected=f"expected a URL such as {example}")


EXACT_URL = url("http", "https", example="https://host.example.com:8000")
"""What is asked as it stands."""
WEB_URL = text(lambda raw: EXACT_URL.of_text(raw).rstrip("/"))
"""Where a server answers; the last slashes go, because paths are put behind it."""


def _address(raw: str) -> tuple[str, int]:
    host, _, port = raw.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError(_ADDRESS)
    return host, int(port)


_ADDRESS = "expected host:port such as 127.0.0.1:8080"
ADDRESS = text(_address, expected=_ADDRESS)


def header_text(least: int = 1) -> Kind[str]:
    """Return the kind of secrets and other texts that go in a header, of so many characters."""

    def read(raw: str) -> str:
        if not (raw.isascii() and raw.isprintable()) or " " in raw:
            raise ValueError(
                "expected printable ASCII characters without spaces: it goes in a header"
            )
        if len(raw) < least:
            raise ValueError(f"expected at least {least} characters, better 40 random ones")
        return raw

    return text(read)


def _printable(raw: str) -> str:
    if not raw.isprintable() or " " in raw:
        raise ValueError("expected printable characters without spaces")
    return raw


PASSWORD = text(_printable)
"""A secret that goes in no header."""


def comma_list(raw: str) -> tuple[str, ...]:
    """Return the entries of `a, b`, without blanks around them and without empty ones."""
    return tuple(entry for part in raw.split(",") if (entry := part.strip()))


def _instead_of(given: object) -> str:
    shown = ascii(given)
    return f", not {shown}" if len(shown) <= LONGEST_SHOWN + 2 else ""
