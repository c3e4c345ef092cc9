"""What Grafana makes of a query before it sends it: time range, interval and dashboard variables.

Only what our dashboards use. A variable without a format is put in as Grafana's InfluxDB
datasource does it, escaped for a regular expression; `$__all` becomes the variable's allValue as it
is. https://grafana.com/docs/grafana/latest/dashboards/variables/variable-syntax/
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

ALL = "$__all"
_SECOND = 1000
_MINUTE = 60 * _SECOND
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_INTERVALS = {
    **{f"{n}s": n * _SECOND for n in (1, 2, 5, 10, 15, 20, 30)},
    **{f"{n}m": n * _MINUTE for n in (1, 2, 5, 10, 15, 20, 30)},
    **{f"{n}h": n * _HOUR for n in (1, 2, 3, 6, 12)},
    **{f"{n}d": n * _DAY for n in (1, 7, 30, 365)},
}
_UNITS = {"ms": 1, "s": _SECOND, "m": _MINUTE, "h": _HOUR, "d": _DAY}
_VARIABLE = re.compile(r"\$(\w+)|\[\[(\w+)(?::(\w+))?\]\]|\$\{(\w+)(?::(\w+))?\}")
_SPECIAL = re.compile(r"[\\^$*+?.()|\[\]{}/]")
SCRAPE_MILLIS = 15 * _SECOND


@dataclass(frozen=True)
class TimeRange:
    """What the time picker says."""

    from_millis: int
    to_millis: int

    @property
    def time_filter(self) -> str:
        """InfluxQL for it."""
        return f"time >= {self.from_millis}ms and time <= {self.to_millis}ms"

    def last(self, span: str) -> TimeRange:
        """Return the last part of it, as a panel's own `timeFrom` does."""
        return TimeRange(self.to_millis - duration_millis(span), self.to_millis)


def duration_millis(text: str) -> int:
    """Read `30s`, `10m`, `24h` or `7d`."""
    match = re.fullmatch(r"(\d+)(ms|[smhd])", text)
    assert match, f"not a duration: {text}"
    return int(match[1]) * _UNITS[match[2]]


def interval(time_range: TimeRange, *, max_data_points: int, at_least: str = "10s") -> str:
    """Return the width of a slice of time: the smallest step with few enough slices."""
    span = time_range.to_millis - time_range.from_millis
    floor = max(span / max_data_points, duration_millis(at_least))
    return next(text for text, millis in _INTERVALS.items() if millis >= floor)


def escape_regex(value: str) -> str:
    """Escape as Grafana does for a regular expression in a query."""
    return _SPECIAL.sub(lambda found: "\\" + found[0], value)


def _formatted(value: str, how: str) -> str:
    match how:
        case "regex":
            return escape_regex(value)
        case "raw":
            return value
        case "percentencode":
            return quote(value, safe="")
    raise AssertionError(f"no such format here: {how}")


def interpolate(
    query: str,
    time_range: TimeRange,
    variables: Mapping[str, str],
    *,
    step: str,
    all_values: Mapping[str, str] | None = None,
) -> str:
    """Return the text that reaches the engine; AssertionError for a variable nobody defines."""
    step_millis = duration_millis(step)
    rate_millis = max(step_millis + SCRAPE_MILLIS, 4 * SCRAPE_MILLIS)
    built_in = {
        "timeFilter": time_range.time_filter,
        "__interval": step,
        "interval": step,
        "__interval_ms": str(step_millis),
        "__rate_interval": f"{math.ceil(rate_millis / _SECOND)}s",
        "__range": f"{(time_range.to_millis - time_range.from_millis) // _SECOND}s",
    }

    def replace(found: re.Match[str]) -> str:
        name = found[1] or found[2] or found[4]
        if name in built_in:
            return built_in[name]
        assert name in variables, f"no variable {name} for {query}"
        if variables[name] == ALL:
            return (all_values or {})[name]
        return _formatted(variables[name], found[3] or found[5] or "regex")

    # A name that ends a regular expression, as in /^$user$/, leaves its `$` alone.
    return _VARIABLE.sub(replace, query)


def names_used(text: str) -> set[str]:
    """Return the variables a text refers to."""
    return {found[1] or found[2] or found[4] for found in _VARIABLE.finditer(text)}


def all_values_of(dashboard: Mapping[str, Any]) -> dict[str, str]:
    """Return what "All" stands for, by variable."""
    return {
        each["name"]: each["allValue"]
        for each in dashboard["templating"]["list"]
        if each.get("includeAll")
    }
