"""Lets a request's reports through to the ledger, as far as their sender's bounds allow."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from collector.api.context import Collector
from collector.api.problems import ProblemError
from collector.byte_bounds import ByteBounds
from collector.reports import Report

log = logging.getLogger(__name__)

_REPORTER = "reporter:"


async def admit(collector: Collector, scope: str, reports: Sequence[Report]) -> int:
    """Hold what a request brings to its sender's bounds; return its bytes, for `settle`.

    Raises ProblemError 413 for more than one request may bring: the same in parts is taken; 429 for
    more than the hour or the day may bring: the same later is taken.
    """
    bounds = _bounds_of(collector, scope)
    amount_bytes = sum(each.upload_bytes + each.download_bytes for each in reports)
    limits = bounds.bounds
    if amount_bytes > limits.request_bytes:
        _note(collector, scope, "request")
        raise ProblemError(
            413,
            f"the reports of this request sum to {amount_bytes} bytes, above the "
            f"{limits.request_bytes} of {limits.setting_of('request')}: send fewer at once",
        )
    now_millis = collector.now_millis()
    if bounds.must_read(scope, amount_bytes, now_millis=now_millis):
        await _read(collector, bounds, scope)
    beyond = bounds.let_through(scope, amount_bytes, now_millis=now_millis)
    if beyond is not None:
        _note(collector, scope, beyond.span)
        raise ProblemError(
            429,
            f"this sender has reported as much as it may in one {beyond.span}: "
            f"{beyond.bound_bytes} bytes ({limits.setting_of(beyond.span)})",
            retry_after_seconds=beyond.retry_after_seconds,
        )
    return amount_bytes


def settle(collector: Collector, scope: str, amount_bytes: int) -> None:
    """Note that what was admitted is stored, or is not."""
    _bounds_of(collector, scope).settle(scope, amount_bytes)


def _bounds_of(collector: Collector, scope: str) -> ByteBounds:
    return collector.key_bytes if scope.startswith(_REPORTER) else collector.user_bytes


async def _read(collector: Collector, bounds: ByteBounds, scope: str) -> None:
    now_millis = collector.now_millis()
    reading = bounds.begin_reading(scope, now_millis=now_millis)
    found = await collector.read(lambda reader: reader.sender_bytes(scope, hour=reading.hour))
    bounds.note_read(scope, reading, found, now_millis=now_millis)


def _note(collector: Collector, scope: str, span: str) -> None:
    """Count a refusal and, once an hour for each sender, log it."""
    reporter = scope.removeprefix(_REPORTER) if scope.startswith(_REPORTER) else ""
    collector.metrics.beyond_bounds.labels(reporter=reporter, span=span).inc()
    if collector.bounded_senders.note(scope, now_seconds=collector.monotonic_seconds()):
        log.warning(
            "sender_beyond_bound sender=%r span=%s: it reports more than its settings allow; "
            "what is beyond is refused for now",
            scope,
            span,
        )


def warnings_of(collector: Collector) -> list[str]:
    """Say which senders reached their bounds within the last hour; users are not named."""
    scopes = collector.bounded_senders.names(now_seconds=collector.monotonic_seconds())
    keys = sorted(each.removeprefix(_REPORTER) for each in scopes if each.startswith(_REPORTER))
    warnings = []
    if keys:
        warnings.append(
            f"reporters that report more than COLLECTOR_KEY_…_BYTES allow: {', '.join(keys)}"
        )
    if users := len(scopes) - len(keys):
        warnings.append(
            f"{users} users without a key report more than COLLECTOR_USER_…_BYTES allow; the log "
            "names them"
        )
    return warnings
