"""Decodes one row of an imported table or CSV: user, server, bytes, day; pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import msgspec

from collector.reports.decode import UNFIT, refusal_of, whole_numbers
from collector.reports.identity import name_within
from collector.reports.report import DAY_MILLIS, Limits, Refusal, Report, WireReport, accept

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "user_token": ("user_token", "username", "user"),
    "server": ("server", "config_server"),
    "port": ("port", "config_port"),
    "protocol": ("protocol",),
    "bytes_uploaded": ("bytes_uploaded", "upload_bytes"),
    "bytes_downloaded": ("bytes_downloaded", "download_bytes"),
    "connections": ("connections",),
    "report_id": ("report_id",),
    "day": ("date_collected", "day", "date"),
    "moment": ("reported_at", "timestamp", "last_used_at", "updated_at", "created_at"),
}
"""The fields of a row, and the columns that may hold each; the first existing column is used."""

NEEDED = ("user_token", "server", "bytes_uploaded", "bytes_downloaded")
OLDEST_DAY = 10_957  # 2000-01-01: an older day comes from a clock that was never set
_DEFAULTS = {"port": 0, "protocol": "unknown", "bytes_uploaded": 0, "bytes_downloaded": 0}
_NUMBERS = ("port", "bytes_uploaded", "bytes_downloaded", "connections")
_NOON_MILLIS = DAY_MILLIS // 2


class Layout(msgspec.Struct, frozen=True):
    """Which column of a file holds which field."""

    columns: Mapping[str, str]

    @property
    def missing(self) -> list[str]:
        """Return the required columns that are missing."""
        missing = [
            f"{field} (or {' or '.join(COLUMNS[field][1:])})" if COLUMNS[field][1:] else field
            for field in NEEDED
            if field not in self.columns
        ]
        if not {"day", "moment"} & set(self.columns):
            missing.append(" or ".join((*COLUMNS["day"], *COLUMNS["moment"])))
        return missing

    def read(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row's fields, without empty ones."""
        read = {field: row.get(column) for field, column in self.columns.items()}
        return {field: value for field, value in read.items() if value not in {None, ""}}


def layout_of(columns: list[str]) -> Layout:
    """Return the layout for these column names."""
    lower = {each.strip().lower(): each for each in columns}
    found = {
        field: next((lower[name] for name in names if name in lower), None)
        for field, names in COLUMNS.items()
    }
    return Layout({field: column for field, column in found.items() if column is not None})


class Row(msgspec.Struct, frozen=True):
    """A valid row; its report is dated within its day."""

    identity: bytes
    """A digest that is the same for all rows of one sum (user, server, port, day or report id)."""
    day: int
    report: Report


def amount_of(fields: Mapping[str, Any]) -> int:
    """Return the bytes of a row, as far as they can be parsed."""
    amounts = (_amount(fields.get(each, 0)) for each in ("bytes_uploaded", "bytes_downloaded"))
    return sum(amounts)


def _amount(value: Any) -> int:
    try:
        return max(0, int(_without_exponent(value)))
    except (TypeError, ValueError, OverflowError):
        return 0


def read_row(
    fields: Mapping[str, Any], *, origin: str, now_millis: int, limits: Limits
) -> Row | Refusal | None:
    """Return the row, or why it is refused, or None if it has zero bytes."""
    when = _when(fields, now_millis=now_millis)
    if isinstance(when, Refusal):
        return when
    day, at_millis = when
    sent = {
        key: _without_exponent(value) if key in _NUMBERS else value
        for key, value in fields.items()
        if key not in {"day", "moment"}
    }
    for field in _NUMBERS:
        text = sent.get(field)
        if isinstance(text, str) and "E" in text.upper() and _NUMBER.fullmatch(text.strip()):
            return Refusal(0, field, "is not a whole number, or too large")
    try:
        wire = msgspec.convert(_DEFAULTS | whole_numbers(sent), WireReport, strict=False)
    except UNFIT as error:
        return refusal_of(0, error)
    username = name_within(wire.user_token)
    if username is None:
        return Refusal(
            0,
            "user_token",
            "carries no username: it is a URL without a subscription token in it, or a token of "
            "PasarGuard, which has the user's number; write the username in its place",
        )
    report = accept(
        wire,
        index=0,
        username=username,
        scope=origin,
        fallback_id=None,
        now_millis=at_millis,
        limits=limits,
    )
    if not isinstance(report, Report):
        return report
    return Row(_identity(origin, wire, day), day, report)


def _identity(origin: str, wire: WireReport, day: int) -> bytes:
    parts = ["sum", wire.user_token, wire.server, str(wire.port), str(day)]
    if wire.report_id is not None:
        parts = ["id", wire.report_id]
    text = "\x1f".join((origin, *parts)).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).digest()


def _when(fields: Mapping[str, Any], *, now_millis: int) -> tuple[int, int] | Refusal:
    """Return a row's day and a time on it: the row's, or noon if it has none on that day."""
    moment = _moment_millis(fields.get("moment"))
    day = _moment_millis(fields.get("day"))
    within_day = moment if day is None else day
    if within_day is None or (day is None and "day" in fields):
        return Refusal(0, "day", "cannot be parsed, and no other column has a day")
    number = within_day // DAY_MILLIS
    if number < OLDEST_DAY:
        return Refusal(0, "day", "is before the year 2000")
    if number > now_millis // DAY_MILLIS + 1:
        return Refusal(0, "day", "is in the future")
    if moment is not None and moment // DAY_MILLIS == number:
        return number, moment
    return number, number * DAY_MILLIS + _NOON_MILLIS


def _moment_millis(value: Any) -> int | None:
    """Parse a time: ISO 8601, a day, or seconds or milliseconds since 1970; naive is UTC."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | date):
        return None
    try:
        if isinstance(value, datetime):
            moment = value
        elif isinstance(value, date):
            moment = datetime.combine(value, time())
        else:
            text = str(value).strip()
            if text.replace(".", "", 1).isdecimal() and not _is_compact_day(text):
                number = float(text)
                return int(number if number >= 1e11 else number * 1000)
            moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        return None


_NUMBER = re.compile(r"\d{1,40}([.,]\d{1,40})?([eE][+-]?\d{1,3})?", re.ASCII)
_LARGEST_EXPONENT = 40


def _without_exponent(value: Any) -> Any:
    """Return an integer for a spreadsheet's `1.05E+06` or `42.00`; other values as they are."""
    if not isinstance(value, str) or value.isdecimal() or not _NUMBER.fullmatch(value.strip()):
        return value
    number = Decimal(value.strip().replace(",", "."))
    if number.adjusted() > _LARGEST_EXPONENT or number != number.to_integral_value():
        return value
    return int(number)


def _is_compact_day(text: str) -> bool:
    """Tell whether digits such as 20261101 are a day; as seconds they would be in 1970."""
    return len(text) == 8 and text.isdecimal()
