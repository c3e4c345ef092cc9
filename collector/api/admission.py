"""Checks the reports of a request against the byte and server bounds of their sender."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from collector.api.problems import ProblemError
from collector.parts import Collector
from collector.reports.byte_bounds import ByteBounds
from collector.reports.columns import amount_of
from collector.reports.report import DAY_MILLIS, Report
from collector.reports.sender_days import REPORTER
from collector.reports.server_bounds import OTHER_SERVER
from collector.reports.spikes import describe

log = logging.getLogger(__name__)

MOST_SHOWN_SPIKES = 10


async def admit(collector: Collector, scope: str, reports: Sequence[Report]) -> int:
    """Reserve a request's bytes within its sender's bounds; return the bytes, for `settle`.

    Raises ProblemError 413 if one request may not have so many bytes (the same reports in smaller
    requests may pass), and 429 if the bound of the hour or the day is reached (a retry after
    `Retry-After` may pass).
    """
    bounds = _bounds_of(collector, scope)
    amount_bytes = amount_of(reports)
    limits = bounds.bounds
    if amount_bytes > limits.request_bytes:
        _note(collector, scope, "request")
        raise ProblemError(
            413,
            f"the reports of this request sum to {amount_bytes} bytes, above the "
            f"{limits.request_bytes} of {limits.setting_of('request')}: send fewer per request",
        )
    now_millis = collector.now_millis()
    if bounds.passes_at_once(scope, amount_bytes, now_millis=now_millis):
        return amount_bytes
    if bounds.must_read(scope, amount_bytes, now_millis=now_millis):
        await _read(collector, bounds, scope)
    beyond = bounds.let_through(scope, amount_bytes, now_millis=now_millis)
    if beyond is not None:
        _note(collector, scope, beyond.span)
        raise ProblemError(
            429,
            f"this sender has reached its bound of bytes per {beyond.span}: "
            f"{beyond.bound_bytes} bytes ({limits.setting_of(beyond.span)})",
            retry_after_seconds=beyond.retry_after_seconds,
        )
    return amount_bytes


def admits_at_once(collector: Collector, scope: str, reports: Sequence[Report]) -> int | None:
    """Admit a request if the caches show that it is within all bounds of its sender.

    Return its bytes, for `settle`; None, with nothing reserved, if `admit` and `bound_servers` have
    to decide.
    """
    now_millis = collector.now_millis()
    servers = collector.key_servers if scope.startswith(REPORTER) else collector.user_servers
    bounds = _bounds_of(collector, scope)
    amount_bytes = amount_of(reports)
    if (
        amount_bytes <= bounds.bounds.request_bytes
        and servers.are_known(scope, reports, now_millis=now_millis)
        and bounds.passes_at_once(scope, amount_bytes, now_millis=now_millis)
    ):
        return amount_bytes
    return None


def settle(collector: Collector, scope: str, amount_bytes: int) -> None:
    """End a reservation of `admit`: the bytes are stored now, or the request failed."""
    _bounds_of(collector, scope).settle(scope, amount_bytes)


async def bound_servers(
    collector: Collector, scope: str, reports: Sequence[Report]
) -> Sequence[Report]:
    """Return the reports; those of servers above the sender's bound per day name `other`."""
    bounds = collector.key_servers if scope.startswith(REPORTER) else collector.user_servers
    now_millis = collector.now_millis()
    if bounds.are_known(scope, reports, now_millis=now_millis):
        return reports
    if bounds.must_read(scope, reports, now_millis=now_millis):
        day = now_millis // DAY_MILLIS
        places = await collector.read_long(lambda reader: reader.sender_places(scope, day=day))
        bounds.note_read(scope, places, now_millis=now_millis)
    bounded, moved = bounds.bound(scope, reports, now_millis=now_millis)
    if moved:
        collector.metrics.under_other.labels(reporter=_reporter_of(scope)).inc(moved)
        if collector.crowded_senders.note(scope, now_seconds=collector.monotonic_seconds()):
            log.warning(
                "sender_names_too_many_servers sender=%r: it named more servers today than its "
                "setting allows; further ones are counted under %r",
                scope,
                OTHER_SERVER,
            )
    return bounded


def _bounds_of(collector: Collector, scope: str) -> ByteBounds:
    return collector.key_bytes if scope.startswith(REPORTER) else collector.user_bytes


async def _read(collector: Collector, bounds: ByteBounds, scope: str) -> None:
    now_millis = collector.now_millis()
    reading = bounds.begin_reading(scope, now_millis=now_millis)
    found = await collector.read(lambda reader: reader.sender_bytes(scope, hour=reading.hour))
    bounds.note_read(scope, reading, found, now_millis=now_millis)


def _note(collector: Collector, scope: str, span: str) -> None:
    """Count a refusal and, once an hour for each sender, log it."""
    collector.metrics.beyond_bounds.labels(reporter=_reporter_of(scope), span=span).inc()
    if collector.bounded_senders.note(scope, now_seconds=collector.monotonic_seconds()):
        log.warning(
            "sender_beyond_bound sender=%r span=%s: it reports more than its settings allow; "
            "the excess is refused until the bound allows more",
            scope,
            span,
        )


def _reporter_of(scope: str) -> str:
    """Return the metric label: the reporter's name; empty for users without a key."""
    return scope.removeprefix(REPORTER) if scope.startswith(REPORTER) else ""


def warnings_of(collector: Collector) -> list[str]:
    """Return warnings about senders that reached a bound in the last hour, without usernames."""
    now_seconds = collector.monotonic_seconds()
    warnings: list[str] = []
    for names, what in (
        (collector.bounded_senders, "report more than COLLECTOR_{kind}_…_BYTES allow"),
        (
            collector.crowded_senders,
            "name more servers than COLLECTOR_{kind}_SERVERS_PER_DAY; the rest is under 'other'",
        ),
    ):
        scopes = names.names(now_seconds=now_seconds)
        keys = sorted(_reporter_of(each) for each in scopes if each.startswith(REPORTER))
        if keys:
            warnings.append(f"reporters {what.format(kind='KEY')}: {', '.join(keys)}")
        if users := len(scopes) - len(keys):
            told = what.format(kind="USER")
            warnings.append(f"{users} users without a key {told}; the log names them")
    warnings += [
        f"reporter {_reporter_of(each.sender)} had a spike: {describe(each)}"
        for each in collector.spikes[:MOST_SHOWN_SPIKES]
        if each.sender.startswith(REPORTER)
    ]
    if users := sum(not each.sender.startswith(REPORTER) for each in collector.spikes):
        warnings.append(f"{users} users without a key had a spike; GET /v1/spikes names them")
    return warnings
