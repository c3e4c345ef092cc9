"""What commands print: lines as they are, and times in UTC."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.console import Console

from collector.runtime.logs import printable

console = Console()


def say(line: str) -> None:
    """Print a line without markup, wrapping or control characters: it may contain names."""
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def second_text(millis: int | None) -> str:
    """Return a time as `2026-11-28 09:30:00`; empty for None, the number if it is no time."""
    if millis is None:
        return ""
    try:
        return f"{datetime.fromtimestamp(millis / 1000, tz=UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError):
        return str(millis)


def minute_text(millis: int | None) -> str:
    """Return a time as `2026-11-28 09:30`; empty for None, the number if it is no time."""
    return second_text(millis)[:16]
