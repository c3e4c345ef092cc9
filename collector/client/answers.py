"""Decides from an HTTP answer what becomes of the reports in the request; pure.

Only an answer of the collector itself counts (it carries `answer_mark`). Items that its receipt
accepts are removed; items that it refuses become dead letters. After any other answer the items
stay queued: a wrong key is no fault of the items, and an answer of another program (a proxy's error
page) means that the collector was not reached.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from collector.client.errors import FailureKind
from collector.runtime.http.answer_mark import is_collectors
from collector.runtime.http.retry_after import retry_after_seconds

LONGEST_REASON = 300


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one report, and its `index` in the request."""

    index: int
    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class Taken:
    """The collector accepted the request, except for the reports in `faults`."""

    accepted: int = 0
    duplicates: int = 0
    ignored: int = 0
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class Again:
    """The collector cannot take it now: retry the same request later."""

    reason: str
    after_seconds: float | None = None
    kind: FailureKind = "busy"


@dataclass(frozen=True, slots=True)
class Denied:
    """The key or the subscription is not valid."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unfit:
    """The whole request is refused, because of one of its items or of its size."""

    reason: str


Verdict = Taken | Again | Denied | Unfit


def judge_reports(
    status: int, headers: Mapping[str, str], body: bytes, *, count: int, now: datetime
) -> Verdict:
    """Decide about a request that carried `count` reports."""
    if other := _other_than_collector(status, headers, body, now):
        return other
    if status == 200:
        return _read_receipt(body, count)
    if status == 422:
        faults = _faults(_json(body).get("errors"), count)
        if {each.index for each in faults} == set(range(count)):
            return Taken(faults=faults)
        return Unfit(_reason(status, body))
    return _judge_other(status, headers, body, now)


def judge_request(
    status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
) -> Verdict:
    """Decide about a relayed payload of another panel: any 2xx of the collector accepts it."""
    if other := _other_than_collector(status, headers, body, now):
        return other
    if 200 <= status < 300:
        return Taken(accepted=1)
    if status == 422:
        return Unfit(_reason(status, body))
    return _judge_other(status, headers, body, now)


def _other_than_collector(
    status: int, headers: Mapping[str, str], body: bytes, now: datetime
) -> Again | None:
    """Return the verdict on an answer of another program; None if the collector gave it."""
    if is_collectors(headers, _json(body)):
        return None
    kind = headers.get("content-type", "").partition(";")[0].strip()
    what = f" with {kind}" if kind else ""
    says = f"is not reached: something else answers {status}{what}"
    asked_seconds = retry_after_seconds(headers.get("retry-after"), now=now)
    if status == 429 or status >= 500:
        return Again(_reason(status, body), asked_seconds)
    if 300 <= status < 400:
        says = f"answers {status}, a redirect; give the collector's own URL"
    elif status == 404:
        says = "answers 404: there is no collector at this URL"
    return Again(says, asked_seconds, "not_a_collector")


def _judge_other(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> Verdict:
    if status == 401:
        return Denied(_reason(status, body))
    if status in {400, 413}:
        return Unfit(_reason(status, body))
    return Again(_reason(status, body), retry_after_seconds(headers.get("retry-after"), now=now))


def _read_receipt(body: bytes, count: int) -> Verdict:
    answer = _json(body)
    accepted, duplicates, ignored = (
        answer.get(name, 0) for name in ("accepted", "duplicates", "ignored")
    )
    counts = (accepted, duplicates, ignored)
    if "accepted" not in answer or not all(type(each) is int for each in counts):
        return Again("answers 200, but not as a collector does")
    if answer.get("more_rejected") and count > 1:
        return Unfit("more reports are refused than the answer names")
    faults = _faults(answer.get("rejected"), count)
    if sum(counts) + len({each.index for each in faults}) != count:
        return Again(f"answers 200, but not about all of the {count} reports it was sent")
    return Taken(accepted, duplicates, ignored, faults)


def _faults(listed: Any, count: int) -> tuple[Fault, ...]:
    faults: dict[int, Fault] = {}
    for each in listed if isinstance(listed, list) else ():
        if not isinstance(each, dict):
            continue
        index = each.get("index")
        if type(index) is int and 0 <= index < count:
            field, reason = str(each.get("field", "report")), str(each.get("reason", "is refused"))
            faults.setdefault(index, Fault(index, field[:64], reason[:LONGEST_REASON]))
    return tuple(faults.values())


def _reason(status: int, body: bytes) -> str:
    detail = _json(body).get("detail")
    said = f": {detail[:LONGEST_REASON]}" if isinstance(detail, str) else ""
    return f"answers {status}{said}"


def _json(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}
