"""What a write to InfluxDB came to, and so what is to be done with its lines.

Pure. Statuses as InfluxDB 2.x gives them (`http/write_handler.go`, and Telegraf's `influxdb_v2`
output for what clients make of them); 1.x answers 400 where 2.x answers 422.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_REASON_LENGTH = 500
LONGEST_RETRY_AFTER_SECONDS = 900.0
_DROPPED = re.compile(r"dropped=(\d+)")


@dataclass(frozen=True, slots=True)
class Stored:
    """All lines are stored."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Nothing is known to be stored; the same lines may be written again, which changes nothing."""

    reason: str
    after_seconds: float | None = None
    """How long the server asks to wait; the caller waits no less than it would by itself."""


@dataclass(frozen=True, slots=True)
class Split:
    """Some line is at fault, or the batch is too large: write its halves."""

    reason: str


@dataclass(frozen=True, slots=True)
class Drop:
    """No line of the batch will ever be stored."""

    reason: str


@dataclass(frozen=True, slots=True)
class Halt:
    """The operator has to mend something; the lines are kept."""

    reason: str


Outcome = Stored | Retry | Split | Drop | Halt


def decide(
    status: int, message: str, *, lines: int, retry_after_seconds: float | None = None
) -> Outcome:
    """Say what an answer to a write of so many lines means.

    `message` is the answer's body, `retry_after_seconds` how long it asks to wait. A wait longer
    than LONGEST_RETRY_AFTER_SECONDS is a mistake of somebody's, and is not heeded to its end.
    """
    reason = " ".join([str(status), *message.split()])[:MAX_REASON_LENGTH]
    if status == 204:
        return Stored()
    if status in {400, 422}:
        # A partial write: the rest is stored, and writing it again stores the same points.
        dropped = _DROPPED.search(message)
        are_all_refused = dropped is not None and int(dropped[1]) >= lines
        return Drop(reason) if lines == 1 or are_all_refused else Split(reason)
    if status == 413:
        return Split(reason) if lines > 1 else Drop(reason)
    if status == 429 or status >= 500:
        return Retry(reason, _bounded(retry_after_seconds))
    if status == 401:
        return Halt(f"{reason}: InfluxDB does not know the token; see to INFLUXDB_TOKEN")
    if status == 403:
        return Halt(f"{reason}: the token may not write to this bucket; see to INFLUXDB_TOKEN")
    if status == 404:
        return Halt(f"{reason}: run `traffic-collector bootstrap`, or see to INFLUXDB_ORG")
    return Halt(f"{reason}: this is no answer of InfluxDB's to a write; see to INFLUXDB_URL")


def _bounded(seconds: float | None) -> float | None:
    return None if seconds is None else min(seconds, LONGEST_RETRY_AFTER_SECONDS)
