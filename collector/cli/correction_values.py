"""Decodes the arguments of a correction: reason, bytes and times; and who requests it."""

from __future__ import annotations

import argparse
import getpass
import re
import socket
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time

from collector.errors import SettingsError

MAX_REASON_LENGTH = 500
_AGO = re.compile(r"([0-9]{1,6})([smhd])", re.ASCII)
_AMOUNT = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def reason(arguments: argparse.Namespace) -> str:
    """Return why the correction is made; SettingsError for too long a text."""
    given: str = arguments.reason
    if len(given) > MAX_REASON_LENGTH:
        raise SettingsError(f"--reason: at most {MAX_REASON_LENGTH} characters")
    return given


def actor() -> str:
    """Return who requests the correction, as user@host."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        name = "unknown"
    return f"{name}@{socket.gethostname()}"


def amount(text: str, option: str) -> int:
    """Decode a number of bytes, negative to subtract. Raises SettingsError for another text."""
    if not _AMOUNT.fullmatch(text) or abs(int(text)) > 2**62:
        raise SettingsError(f"{option}: expected whole bytes such as -103000000000, not {text!r}")
    return int(text)


def moment(text: str, option: str, *, now_millis: int) -> int:
    """Decode a time into milliseconds since 1970. Raises SettingsError for another text.

    It is in ISO 8601, UTC unless it names a zone, or `3h` for three hours ago.
    """
    if found := _AGO.fullmatch(text):
        return now_millis - int(found[1]) * _UNITS[found[2]] * 1000
    try:
        found_at = datetime.fromisoformat(text)
        found_at = found_at if found_at.tzinfo else found_at.replace(tzinfo=UTC)
        return round((found_at - datetime.fromtimestamp(0, tz=UTC)) / timedelta(milliseconds=1))
    except (ValueError, OverflowError) as error:
        raise SettingsError(
            f"{option}: expected a time such as 2026-11-28T09:30Z, or 30m, 3h, 2d for that long "
            f"ago, not {text!r}"
        ) from error


def noon_of(day: date | None, *, now_millis: int) -> int | None:
    """Return noon of a day, UTC; None without a day. Raises SettingsError for a future day."""
    if day is None:
        return None
    noon_millis = int(datetime.combine(day, clock_time(12), tzinfo=UTC).timestamp() * 1000)
    if noon_millis > now_millis:
        raise SettingsError(
            "--day: expected a day before today; without it, the bytes count as of now"
        )
    return noon_millis
