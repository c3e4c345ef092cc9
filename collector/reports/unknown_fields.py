"""Fields that a report does not have, and which field their sender may have meant; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from collector.reports.report import WireReport
from collector.runtime.near_words import near_words

MOST_UNKNOWN = 20
"""So many different names are told; further ones are left out."""
LONGEST_NAME = 64
FIELDS = WireReport.__struct_fields__
_OTHER_NAMES = {
    "timestamp": "reported_at",
    "time": "reported_at",
    "date": "reported_at",
    "id": "report_id",
    "eventid": "report_id",
    "idempotencykey": "report_id",
    "user": "user_token",
    "username": "user_token",
    "token": "user_token",
    "email": "user_token",
    "up": "bytes_uploaded",
    "upload": "bytes_uploaded",
    "uploadbytes": "bytes_uploaded",
    "uploadedbytes": "bytes_uploaded",
    "down": "bytes_downloaded",
    "download": "bytes_downloaded",
    "downloadbytes": "bytes_downloaded",
    "downloadedbytes": "bytes_downloaded",
    "host": "server",
    "proto": "protocol",
    "connectioncount": "connections",
}
"""By the spelling without case and signs, names by which other programs call a field."""
_SPELLINGS = {re.sub("[^a-z0-9]", "", each): each for each in FIELDS} | _OTHER_NAMES


class UnknownField(msgspec.Struct, frozen=True):
    """A name that is no field of a report, and how many reports have it."""

    field: str
    reports: int
    did_you_mean: str | None
    """The field that its sender may have meant."""


def unknown_fields(items: Iterable[Any]) -> list[UnknownField]:
    """Return the names in objects that are no fields of a report, at most `MOST_UNKNOWN`."""
    counts: dict[str, int] = {}
    for item in items:
        for name in unknown_names(item):
            if name in counts or len(counts) < MOST_UNKNOWN:
                counts[name] = counts.get(name, 0) + 1
    return [UnknownField(shown(name), count, meant_by(name)) for name, count in counts.items()]


def unknown_names(item: Any) -> list[str]:
    """Return the names in an object that are no fields of a report."""
    return [name for name in item if name not in FIELDS] if isinstance(item, Mapping) else []


def meant_by(name: str) -> str | None:
    """Return the field that a name is likely to mean; None if there is none."""
    spelling = re.sub("[^a-z0-9]", "", name[:LONGEST_NAME].lower())
    near = near_words(spelling, _SPELLINGS)
    return _SPELLINGS[near[0]] if near else None


def why_unknown(name: str) -> str:
    """Return why a request that is to be checked strictly is refused for a name."""
    meant = meant_by(name)
    return "is no field of a report" + (f"; did you mean {meant}?" if meant else "")


def shown(name: str) -> str:
    """Return a name as an answer and a log line show it."""
    cut = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in cut)
