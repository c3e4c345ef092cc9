"""Follows a Redis stream; its position is stored together with the reports; extra `redis`.

If messages before the position were never read, the stream was replaced by another one: it is read
from its start, without the messages that were read already.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from collector.agent.config.settings import Source
from collector.agent.errors import SourceError
from collector.agent.polling import Gain, queued
from collector.agent.requests import ReadStream
from collector.agent.sources.remnawave import OLDEST
from collector.agent.state.state import Seen, State
from collector.agent.stream.gains import Page, gain_of, joined, note_of
from collector.agent.stream.messages import (
    Message,
    digest_read,
    forget,
    messages_of,
    order_of,
    remember,
    unread,
)
from collector.client.errors import SpoolFullError
from collector.client.spool.spool import REPORTS
from collector.runtime.cancelling import raise_if_cancelled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

MOST_MESSAGES = 500
BEGINNING = "0-0"


async def follow(source: Source, request: ReadStream, state: State) -> Gain:
    """Queue all new messages, page by page, each with its position; return the sum of all pages.

    Raises SourceError or SpoolFullError; the messages that are not queued stay in the stream.
    """
    whole: Gain | None = None
    most = MOST_MESSAGES
    async with _opened(source, request) as redis:
        await _make_known(redis, source, request, state)
        while True:
            page = await _page(redis, source, request, state, most)
            try:
                brought = await asyncio.to_thread(_absorb, source, request, state, page)
            except SpoolFullError:
                if len(page.messages) <= 1:
                    raise
                most = len(page.messages) // 2  # a smaller page may fit
                continue
            whole = brought if whole is None else joined(whole, brought)
            if len(page.messages) < most and not page.is_anew:
                return whole


async def peek(source: Source, request: ReadStream, state: State) -> Gain:
    """Compute the traffic that the next page would add; change nothing."""
    async with _opened(source, request) as redis:
        page = await _page(redis, source, request, state, MOST_MESSAGES)
    with state.spool.reading() as db:
        messages = unread(db, source.name, page.messages)
    return gain_of(source, request, replace(page, messages=messages), now=datetime.now(tz=UTC))


@asynccontextmanager
async def _opened(source: Source, request: ReadStream) -> AsyncIterator[Redis]:
    # Imported only if a stream is configured: the extra may be missing.
    from redis.asyncio import Redis  # noqa: PLC0415
    from redis.exceptions import RedisError  # noqa: PLC0415

    where = urlsplit(request.url).netloc
    try:
        async with asyncio.timeout(source.timeout_seconds * 10):
            redis = Redis.from_url(
                request.url,
                username=request.username,
                password=request.password,
                protocol=2,
                decode_responses=False,  # a message that is not UTF-8 must not fail the page
                socket_timeout=source.timeout_seconds,
                socket_connect_timeout=source.timeout_seconds,
            )
            try:
                yield redis
            finally:
                await redis.aclose()
                raise_if_cancelled()  # closing ends as if nothing was cancelled meanwhile
    except TimeoutError:
        raise SourceError(f"{where} does not answer in time") from None
    except (RedisError, OSError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())[:200]
        raise SourceError(f"{where}: {type(error).__name__}: {said}") from error


async def _make_known(redis: Redis, source: Source, request: ReadStream, state: State) -> None:
    """Record as read the messages that were read before such records were kept.

    At the first poll that is the whole stream; for the state of an older version, all messages up
    to its position.
    """
    position = await asyncio.to_thread(_position, source, state)
    if position is None:
        await asyncio.to_thread(_forget, source, state)
        last = (
            [] if source.count_first else await _entries(redis.xrevrange(request.stream, count=1))
        )
    else:
        digest = await asyncio.to_thread(_digest, source, state, position)
        if position == BEGINNING or digest is not None:
            return
        last = await _entries(redis.xrange(request.stream, position, position))
    after, end = BEGINNING, order_of(last[0].message_id) if last else ""
    while last and order_of(after) < end:
        messages = await _following(redis, request, after, MOST_MESSAGES)
        known = [each for each in messages if order_of(each.message_id) <= end]
        if not known:
            return
        await asyncio.to_thread(_remember, source, state, known)
        after = known[-1].message_id


async def _page(redis: Redis, source: Source, request: ReadStream, state: State, most: int) -> Page:
    position = await asyncio.to_thread(_position, source, state)
    if position is None and not source.count_first:
        last = await _entries(redis.xrevrange(request.stream, count=1))
        return Page([], last[0].message_id if last else BEGINNING, is_first=True)
    after = position or BEGINNING
    messages = await _following(redis, request, after, most)
    first = await _entries(redis.xrange(request.stream, count=1))
    first_id = first[0].message_id if first else None
    has_gap = False
    if after != BEGINNING and first_id is not None:
        digest = await asyncio.to_thread(_digest, source, state, after)
        there = await _entries(redis.xrange(request.stream, after, after))
        is_another = bool(there) and digest not in {None, there[0].digest}
        is_cut_before = order_of(first_id) > order_of(after)
        if is_another or not (there or is_cut_before):
            start = BEGINNING if digest is not None else _oldest_safe_id()
            return Page([], start, is_first=False, is_anew=True, first_id=first_id)
        has_gap = bool(messages) and not there
    end = messages[-1].message_id if messages else after
    return Page(messages, end, is_first=position is None, has_gap=has_gap, first_id=first_id)


def _oldest_safe_id() -> str:
    """Return the id to begin at without a position: collectors deduplicate newer messages."""
    return f"{max(0, int((time.time() - OLDEST.total_seconds()) * 1000))}-0"


async def _entries(asked: Any) -> list[Message]:
    return messages_of(await asked)


async def _following(redis: Redis, request: ReadStream, after: str, most: int) -> list[Message]:
    found: Any = await redis.xread({request.stream: after}, count=most)
    return messages_of([entry for _, stream in found for entry in stream])


def _position(source: Source, state: State) -> str | None:
    with state.spool.reading() as db:
        return state.position(db, source.name, source.fingerprint)


def _digest(source: Source, state: State, message_id: str) -> bytes | None:
    with state.spool.reading() as db:
        return digest_read(db, source.name, message_id)


def _forget(source: Source, state: State) -> None:
    with state.spool.transaction() as db:
        forget(db, source.name)


def _remember(source: Source, state: State, messages: Sequence[Message]) -> None:
    with state.spool.transaction() as db:
        remember(db, source.name, messages)


def _absorb(source: Source, request: ReadStream, state: State, page: Page) -> Gain:
    with state.spool.transaction() as db:
        new = replace(page, messages=unread(db, source.name, page.messages))
        brought = gain_of(source, request, new, now=datetime.now(tz=UTC))
        seen = Seen(
            brought.advance.known,
            counters=0,
            skipped=brought.skipped,
            restarts=int(page.has_gap or page.is_anew),
            reports=len(brought.reports),
            unmapped_names=brought.unmapped_names,
            set_aside=[f"{each.message_id}: {each.reason}" for each in brought.set_aside],
            note=note_of(page),
        )
        state.spool.put_within(db, REPORTS, queued(brought.reports))
        state.keep_position(db, source.name, source.fingerprint, page.position, seen)
        remember(db, source.name, new.messages)
        if page.messages and page.first_id is not None and not page.is_anew:
            forget(db, source.name, before=page.first_id)
    return brought
