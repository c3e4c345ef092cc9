"""Reads the values of environment variables; each raises ValueError that says what is expected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from collector.errors import SettingsError
from collector.ledger.backend import place_of
from collector.reports.reporters import MIN_KEY_LENGTH, NAME


def text(raw: str) -> str:
    """Take a text as it is."""
    return raw


def url(raw: str) -> str:
    """Read a URL of http or https, without a name and password in it."""
    try:
        parts = urlsplit(raw)
        httpx.URL(raw)
        is_whole = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except (ValueError, httpx.InvalidURL):  # not repeated: there may be a password in it
        is_whole = False
    if raw and not is_whole:
        raise ValueError("expected a URL such as https://panel.example.com:8000")
    if raw and parts.username is not None:
        raise ValueError("a URL with a name and password in it would end up in logs")
    return raw.rstrip("/")


def flag(raw: str) -> bool:
    """Read true or false."""
    folded = raw.strip().casefold()
    if folded in {"1", "true", "yes", "on"}:
        return True
    if folded in {"0", "false", "no", "off"}:
        return False
    raise ValueError("expected true or false")


def path(raw: str) -> Path | None:
    """Read a path; None for nothing."""
    return Path(raw) if raw else None


def ledger_url(raw: str) -> str:
    """Read where a ledger is."""
    try:
        place_of(raw)
    except SettingsError as error:
        raise ValueError(str(error).removeprefix("LEDGER_URL: ")) from None
    return raw


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return what reads a whole number within bounds."""

    def parse(raw: str) -> int:
        number = int(raw)
        if not least <= number <= most:
            raise ValueError(f"expected a whole number from {least} to {most}")
        return number

    return parse


def rate(raw: str) -> float:
    """Read a number of calls a second; 0 is no limit."""
    number = float(raw)
    if not 0 <= number <= 1e9:
        raise ValueError("expected a number of 0 (no limit) or more")
    return number


def seconds(raw: str) -> float:
    """Read a number of seconds."""
    seconds = float(raw)
    if not 0.05 <= seconds <= 3600:
        raise ValueError("expected a number of seconds from 0.05 to 3600")
    return seconds


def header_text(raw: str) -> str:
    """Read what goes in a header."""
    if not (raw.isascii() and raw.isprintable()) or " " in raw:
        raise ValueError("expected printable ASCII characters without spaces: it goes in a header")
    return raw


def admin_key(raw: str) -> str:
    """Read a key that is long enough."""
    header_text(raw)
    if raw and len(raw) < MIN_KEY_LENGTH:
        raise ValueError(f"expected at least {MIN_KEY_LENGTH} characters, better 40 random ones")
    return raw


def reporter_keys(raw: str) -> tuple[tuple[str, str], ...]:
    """Read names of reporters and their keys."""
    keys: dict[str, str] = {}
    for number, part in enumerate(raw.split(","), start=1):
        name, _, key = part.strip().partition(":")
        if not name and not key:
            continue
        if not NAME.fullmatch(name) or len(key) < MIN_KEY_LENGTH:  # a name may be a key, misplaced
            raise ValueError(
                "expected name:key,name2:key2 with names of A-Z a-z 0-9 . _ - and keys of at "
                f"least {MIN_KEY_LENGTH} characters; entry {number} is not so"
            )
        keys[name] = header_text(key)
    return tuple(keys.items())


def reporter_names(raw: str) -> tuple[str, ...]:
    """Read names of reporters."""
    names = tuple(name for part in raw.split(",") if (name := part.strip()))
    if not all(NAME.fullmatch(name) for name in names):
        raise ValueError("expected reporters' names: name,name2 of A-Z a-z 0-9 . _ -")
    return names
