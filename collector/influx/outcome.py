"""Decides from the answer to a write what to do with its lines.

Pure. Statuses as InfluxDB 2.x gives them (`http/write_handler.go`, and Telegraf's `influxdb_v2`
output for what clients make of them); 1.x answers 400 where 2.x answers 422. InfluxDB 3 answers 400
for lines that it refuses and 422 where it has reached a limit (`influxdb3_server/src/http.rs` of
3.10). VictoriaMetrics 1.79 passes over a line that it cannot read, later ones answer 400.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from collector.influx.kinds import TargetKind

MAX_REASON_LENGTH = 500
LONGEST_RETRY_AFTER_SECONDS = 900.0
_DROPPED = re.compile(r"dropped=(\d+)")
_EXPIRED = re.compile(r"\b(?:outside|beyond) retention policy\b")
"""How 2.9 and 1.x say it; every partial write ends in `for retention policy: NAME`."""
UNKNOWN_ROUTE = "unsupported path requested"
"""How VictoriaMetrics says that it has no such route."""
_OF_VICTORIAMETRICS = "x-server-hostname"
_OF_INFLUXDB = "x-influxdb-build"


@dataclass(frozen=True, slots=True)
class Stored:
    """All lines are stored."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Whether the lines are stored is not known; write the same lines again, which is harmless."""

    reason: str
    after_seconds: float | None = None
    """`Retry-After`; the caller waits at least its own backoff."""


@dataclass(frozen=True, slots=True)
class Split:
    """A line is refused, or the batch is too large: write its halves."""

    reason: str


@dataclass(frozen=True, slots=True)
class Drop:
    """InfluxDB refuses all lines of the batch for good."""

    reason: str
    is_expired: bool = False
    """Whether it is because the bucket would not keep them any more: nothing is wrong with them."""


@dataclass(frozen=True, slots=True)
class Halt:
    """An operator has to correct something; the lines are kept."""

    reason: str


Outcome = Stored | Retry | Split | Drop | Halt


def decide(
    status: int,
    message: str,
    *,
    lines: int,
    retry_after_seconds: float | None = None,
    kind: TargetKind = TargetKind.INFLUXDB,
) -> Outcome:
    """Return the outcome of a write of `lines` lines.

    `message` is the answer's body. `retry_after_seconds` is capped at LONGEST_RETRY_AFTER_SECONDS.
    """
    reason = " ".join([str(status), *message.split()])[:MAX_REASON_LENGTH]
    if status == 204:
        return Stored()
    if fault := _fault(status, message, kind):
        return Halt(f"{reason}: {fault}")
    if status in {400, 422}:
        # A partial write: the other lines are stored, and writing them again is harmless.
        dropped = _DROPPED.search(message)
        are_all_refused = dropped is not None and int(dropped[1]) >= lines
        if lines == 1 or are_all_refused:
            return Drop(reason, is_expired=_EXPIRED.search(message) is not None)
        return Split(reason)
    if status == 413:
        return Split(reason) if lines > 1 else Drop(reason)
    if status == 429 or status >= 500:
        return Retry(reason, _bounded(retry_after_seconds))
    if status == 401:
        return Halt(f"{reason}: InfluxDB does not know the token; correct INFLUXDB_TOKEN")
    if status == 403:
        return Halt(
            f"{reason}: the token may not write to this bucket; correct INFLUXDB_TOKEN, or if the "
            "bucket was created again, run `traffic-collector bootstrap --tokens`"
        )
    if status == 404 and message.lstrip().startswith("{"):  # as InfluxDB says it
        return Halt(f"{reason}: run `traffic-collector bootstrap`, or correct INFLUXDB_ORG")
    return Halt(f"{reason}: this is not InfluxDB's answer to a write; correct INFLUXDB_URL")


def _fault(status: int, message: str, kind: TargetKind) -> str | None:
    """Return what an operator has to correct where the answer is no verdict on a line."""
    if status == 422 and kind is TargetKind.INFLUXDB3:
        return "it takes no more databases, tables or columns: drop some, or raise its limits"
    if status == 400 and UNKNOWN_ROUTE in message:
        return "VictoriaMetrics does not take writes there; correct INFLUXDB_URL"
    return None


def other_kind(kind: TargetKind, headers: Mapping[str, str]) -> str | None:
    """Return what answered, and what to set, if the headers show that it is another kind."""
    is_victoria = headers.get(_OF_VICTORIAMETRICS) is not None
    is_influx = headers.get(_OF_INFLUXDB) is not None
    if kind is TargetKind.VICTORIAMETRICS and is_influx and not is_victoria:
        return "an InfluxDB: set INFLUXDB_KIND=influxdb, or influxdb3"
    if kind is not TargetKind.VICTORIAMETRICS and is_victoria and not is_influx:
        return "a VictoriaMetrics: set INFLUXDB_KIND=victoriametrics"
    return None


def _bounded(seconds: float | None) -> float | None:
    return None if seconds is None else min(seconds, LONGEST_RETRY_AFTER_SECONDS)
