"""Following a Redis stream from a position that is kept with what was read; extra `redis`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from collector.agent.asks import ReadStream
from collector.agent.config import Source
from collector.agent.counters import Life
from collector.agent.deltas import Advance, Known
from collector.agent.errors import SourceError
from collector.agent.polling import Gain, queued
from collector.agent.sources.remnawave import Usage, report_id, usages
from collector.agent.state import Seen, State
from collector.client.errors import ReportError
from collector.client.report import Report
from collector.client.spool import REPORTS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

MOST_MESSAGES = 500
BEGINNING = "0-0"


@dataclass(frozen=True, slots=True)
class Page:
    """Messages that follow a position, and the position after them."""

    messages: Sequence[tuple[str, dict[str, str]]]
    position: str
    is_first: bool
    has_gap: bool
    """The message read last is gone: others after it may be, too."""


async def follow(source: Source, ask: ReadStream, state: State) -> Gain:
    """Queue all that is new, page by page, each with its position; return what it all brought.

    Raises SourceError, or SpoolFullError: then the stream keeps what was not queued.
    """
    whole: Gain | None = None
    async with _opened(source, ask) as redis:
        while True:
            position = await asyncio.to_thread(_position, source, state)
            page = await _page(redis, source, ask, position)
            brought = await asyncio.to_thread(_absorb, source, ask, state, page)
            whole = brought if whole is None else _joined(whole, brought)
            if len(page.messages) < MOST_MESSAGES:
                return whole


def _joined(one: Gain, other: Gain) -> Gain:
    restarts = one.advance.restarts + other.advance.restarts
    names = dict.fromkeys(one.unmapped_names + other.unmapped_names)
    step = Advance((), other.advance.known, restarts)
    skipped = one.skipped + other.skipped
    return Gain(one.reports + other.reports, tuple(names), step, one.is_first, skipped=skipped)


async def peek(source: Source, ask: ReadStream, state: State) -> Gain:
    """Return what the next page would bring, and change nothing."""
    async with _opened(source, ask) as redis:
        page = await _page(redis, source, ask, _position(source, state))
    return _gain(source, ask, page)


@asynccontextmanager
async def _opened(source: Source, ask: ReadStream) -> AsyncIterator[Redis]:
    # Only who reads a stream needs the library.
    from redis.asyncio import Redis  # noqa: PLC0415
    from redis.exceptions import RedisError  # noqa: PLC0415

    where = urlsplit(ask.url).netloc
    try:
        async with asyncio.timeout(source.timeout_seconds * 10):
            redis = Redis.from_url(
                ask.url,
                username=ask.username,
                password=ask.password,
                protocol=2,
                decode_responses=True,
                socket_timeout=source.timeout_seconds,
                socket_connect_timeout=source.timeout_seconds,
            )
            try:
                yield redis
            finally:
                await redis.aclose()
    except TimeoutError:
        raise SourceError(f"{where} does not answer in time") from None
    except (RedisError, OSError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())[:200]
        raise SourceError(f"{where}: {type(error).__name__}: {said}") from error


async def _page(redis: Redis, source: Source, ask: ReadStream, position: str | None) -> Page:
    if position is None and not source.count_first:
        last: Any = await redis.xrevrange(ask.stream, count=1)
        return Page([], last[0][0] if last else BEGINNING, is_first=True, has_gap=False)
    after = position or BEGINNING
    found: Any = await redis.xread({ask.stream: after}, count=MOST_MESSAGES)
    has_gap = False
    if found and after != BEGINNING:
        has_gap = not await redis.xrange(ask.stream, after, after)
    messages = [message for _, stream in found for message in stream]
    end = messages[-1][0] if messages else after
    return Page(messages, end, is_first=position is None, has_gap=has_gap)


def _position(source: Source, state: State) -> str | None:
    with state.spool.reading() as db:
        return state.position(db, source.name, source.fingerprint)


def _absorb(source: Source, ask: ReadStream, state: State, page: Page) -> Gain:
    brought = _gain(source, ask, page)
    seen = Seen(
        brought.advance.known,
        counters=0,
        skipped=brought.skipped,
        restarts=int(page.has_gap),
        reports=len(brought.reports),
        unmapped_names=brought.unmapped_names,
    )
    with state.spool.transaction() as db:
        state.spool.put_within(db, REPORTS, queued(brought.reports))
        state.keep_position(db, source.name, source.fingerprint, page.position, seen)
    return brought


def _gain(source: Source, ask: ReadStream, page: Page) -> Gain:
    now = datetime.now(tz=UTC)
    reports: list[Report] = []
    unmapped: dict[str, None] = {}
    skipped = 0
    for message_id, message in page.messages:
        found, odd = usages(message_id, message, now=now)
        skipped += odd
        for usage in found:
            try:
                reports.append(_report(source, ask, usage))
            except ReportError:  # nobody's, or a name no collector takes
                unmapped[usage.user] = None
    step = Advance((), Known({}, Life()), int(page.has_gap))
    return Gain(tuple(reports), tuple(unmapped), step, page.is_first, skipped=skipped)


def _report(source: Source, ask: ReadStream, usage: Usage) -> Report:
    return Report(
        user=source.users.username(usage.user) or "",
        server=ask.nodes.get(usage.node, f"{source.server}-{usage.node}"),
        port=source.port,
        protocol=source.protocol,
        upload_bytes=0,
        download_bytes=usage.amount_bytes,
        reported_at=usage.used_at,
        report_id=report_id(usage),
    )
