"""Remnawave: its Redis stream of usage, in which each message has an id.

A message has the traffic of one node's users since the previous message, as `userId:bytes` pairs
without a direction; here it is counted as download. The reports' ids are derived from the message's
id, so a message counts once, however often it is read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from collector.agent.errors import SourceError
from collector.agent.requests import Parse, ReadStream, SourceRequest
from collector.agent.state.counters import Sample, amount
from collector.runtime.config.tables import Table
from collector.runtime.config.values import ANY_TEXT, PASSWORD, line, url

REDIS_URL = url("redis", "rediss", example="redis://127.0.0.1:6379")
STREAM = "ioraw:export:user_usage"
_RECORD = re.compile(r"(?P<user>\d{1,19}):(?P<amount>\d{1,19})", re.ASCII)
_NODE = re.compile(r"\d{1,19}", re.ASCII)
OLDEST = timedelta(days=6)
FARTHEST = timedelta(minutes=4)


@dataclass(frozen=True, slots=True)
class Usage:
    """One user's traffic on one node, from one message."""

    message_id: str
    node: str
    user: str
    amount_bytes: int
    used_at: datetime | None


def build(table: Table) -> tuple[SourceRequest, Parse]:
    """Return the request that reads the stream."""
    request = ReadStream(
        url=table.get("url", REDIS_URL, "redis://127.0.0.1:6379"),
        stream=table.get("stream", line(255), STREAM),
        username=table.get("username", line(255), None),
        password=table.secret("password", PASSWORD, default=None),
        nodes=table.texts("nodes", ANY_TEXT, {}, example='3 = "de-3"'),
    )
    return request, _never


def _never(_: bytes) -> Sample:
    raise SourceError("a stream has no counters")


def usages(
    message_id: str, message: Mapping[str, str], *, now: datetime
) -> tuple[list[Usage], int]:
    """Decode one message; return its usages, and how many parts could not be parsed.

    Raises SourceError for a message of another version. A time that every collector would refuse,
    since it is too old or in the future, is left out.
    """
    node = message.get("nodeId", "")
    if message.get("v") != "1":
        raise SourceError(f"its version is {message.get('v', '')[:20]!r}, not '1'")
    if not _NODE.fullmatch(node):
        raise SourceError(f"its node is {node[:40]!r}, not a number")
    used_at = _moment(message.get("ts", ""), now)
    sums: Counter[str] = Counter()
    skipped = 0
    for part in message.get("records", "").split(";"):
        found = _RECORD.fullmatch(part)
        if found is None:
            skipped += bool(part)
        elif amount(sums[found["user"]] + int(found["amount"])) is None:
            skipped += 1
        else:
            sums[found["user"]] += int(found["amount"])
    found_usages = [
        Usage(message_id, node, user, amount_bytes, used_at)
        for user, amount_bytes in sums.items()
        if amount_bytes
    ]
    return found_usages, skipped


def report_id(usage: Usage) -> str:
    """Return the id of a report: the same each time the message is read."""
    return f"remnawave/{usage.message_id}/{usage.user}"


def _moment(text: str, now: datetime) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None or not now - OLDEST < moment < now + FARTHEST:
        return None
    return moment
