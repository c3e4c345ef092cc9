"""Points in InfluxDB's line protocol.

Grammar and escapes: https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import overload

FieldValue = int | float | str


class UnwritableError(Exception):
    """A point cannot be encoded in InfluxDB's line protocol."""


NANOS_PER_MILLI = 1_000_000
GZIP_LEVEL = 1
"""The gzip level: lines are repetitive, so a higher level costs much and saves little."""

_KEY_ESCAPES = str.maketrans({",": "\\,", " ": "\\ ", "=": "\\="})
_MEASUREMENT_ESCAPES = str.maketrans({",": "\\,", " ": "\\ "})
_TEXT_ESCAPES = str.maketrans({'"': '\\"', "\\": "\\\\"})


def to_line(
    measurement: str,
    tags: Mapping[str, str],
    fields: Mapping[str, FieldValue | None],
    timestamp_nanos: int,
) -> str:
    """Return one line without a newline; fields that are None are left out.

    Raises UnwritableError for values that the protocol cannot encode.
    """
    return f"{series_key(measurement, tags)} {_fields(fields)} {timestamp_nanos}"


def ordered_nanos(at_millis: int, seq: int) -> int:
    """Return a time in nanoseconds, with a sequence number in the digits below the millisecond.

    So points of one series and millisecond do not overwrite each other, unless their numbers differ
    by an exact multiple of a million; a point that is written again overwrites itself.
    """
    return at_millis * NANOS_PER_MILLI + seq % NANOS_PER_MILLI


def series_key(measurement: str, tags: Mapping[str, str]) -> str:
    """Return the part of a line that names its series, with tags in InfluxDB's order.

    Raises UnwritableError for a tag value that is empty, has a line break, or ends in a backslash,
    which would escape the delimiter after it.
    """
    parts = [measurement.translate(_MEASUREMENT_ESCAPES)]
    for name in sorted(tags):
        value = tags[name]
        if not value or value.endswith("\\") or "\n" in value or "\r" in value:
            raise UnwritableError(
                f"the value {value!r} of tag {name} cannot be written to InfluxDB: it is empty, "
                "has a line break or ends in a backslash"
            )
        parts.append(f"{name.translate(_KEY_ESCAPES)}={value.translate(_KEY_ESCAPES)}")
    return ",".join(parts)


def pack(text: str) -> bytes:
    """Return the body of a request with the lines of a text."""
    return gzip.compress(text.encode(), GZIP_LEVEL)


class PackedLines(Sequence[str]):
    """Lines that are kept as the body of their request, a twentieth of their length.

    They are unpacked where one of them is asked for, as where one of them was refused.
    """

    def __init__(self, text: str, *, lines: int) -> None:
        self.body = pack(text)
        self._lines = lines

    def __len__(self) -> int:
        return self._lines

    def __iter__(self) -> Iterator[str]:
        return iter(self._unpacked())

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._unpacked()[index]

    def _unpacked(self) -> list[str]:
        return gzip.decompress(self.body).decode().split("\n")


def _fields(fields: Mapping[str, FieldValue | None]) -> str:
    parts = [
        f"{name.translate(_KEY_ESCAPES)}={_spell(name, value)}"
        for name, value in fields.items()
        if value is not None
    ]
    if not parts:
        raise UnwritableError("a point needs at least one field")
    return ",".join(parts)


def _spell(name: str, value: FieldValue) -> str:
    """Encode a field's value; integers always as integers, so that a field keeps its type."""
    if isinstance(value, str):
        return f'"{value.translate(_TEXT_ESCAPES)}"'
    if isinstance(value, int):
        return f"{int(value)}i"
    if not math.isfinite(value):
        raise UnwritableError(f"field {name} is {value}, which InfluxDB cannot store")
    return repr(value)
