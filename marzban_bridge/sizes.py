"""Amounts of bytes in words, for people; pure."""

from __future__ import annotations

import re

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
IN_BYTES = frozenset(
    {"corrected", "quota_changed", "reset", "reseller_near", "reseller_over", "reseller_reset"}
)
"""The kinds of events whose values before and after are bytes."""
_NUMBER = re.compile(r"-?\d+")
_LIMIT_IN_BYTES = re.compile(r"\b(data limit|quota|baseline) (-?\d+)\b|\b(\d+)( used in the panel)")


def human_bytes(amount_bytes: int | None) -> str:
    """Format an amount in IEC units with three digits; None is unlimited."""
    if amount_bytes is None:
        return "unlimited"
    amount = float(abs(amount_bytes))
    unit = 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount /= 1024
        unit += 1
    sign = "-" if amount_bytes < 0 else ""
    digits = 0 if unit == 0 else max(0, 2 - len(str(int(amount))) + 1)
    return f"{sign}{amount:.{digits}f} {_UNITS[unit]}"


def changed_bytes(amount_bytes: int) -> str:
    """Format a difference, with its sign."""
    return f"{'+' if amount_bytes >= 0 else ''}{human_bytes(amount_bytes)}"


def human_value(value: str | None, *, kind: str) -> str | None:
    """Return the value before or after an event with its bytes in units; the trail has them exact.

    `kind` is the event's.
    """
    if value is None:
        return None
    if kind in IN_BYTES:
        return human_bytes(int(value)) if _NUMBER.fullmatch(value) else value
    return _LIMIT_IN_BYTES.sub(_spell, value)


def _spell(found: re.Match[str]) -> str:
    word, amount, used, rest = found.groups()
    return f"{word} {human_bytes(int(amount))}" if word else f"{human_bytes(int(used))}{rest}"
