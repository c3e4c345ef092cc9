"""Follows a Redis stream; its position is stored together with the reports; extra `redis`.

If messages before the position were never read, the stream was replaced by another one: it is read
from its start, without the messages that were read already.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from collector.agent.config.settings import Source
from collector.agent.errors import SourceError
from collector.agent.polling import Gain, Unreadable, queued
from collector.agent.requests import ReadStream
from collector.agent.sources.remnawave import OLDEST, Usage, report_id, usages
from collector.agent.state.counters import Life
from collector.agent.state.deltas import Advance, Known
from collector.agent.state.state import Seen, State
from collector.agent.stream_messages import (
    Message,
    digest_read,
    forget,
    messages_of,
    order_of,
    remember,
    unread,
)
from collector.client.errors import ReportError, SpoolFullError
from collector.client.report import Report
from collector.client.spool.spool import REPORTS
from collector.runtime.cancelling import raise_if_cancelled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

MOST_MESSAGES = 500
BEGINNING = "0-0"


@dataclass(frozen=True, slots=True)
class Page:
    """Messages that follow a position, and the position after them."""

    messages: Sequence[Message]
    position: str
    is_first: bool
    has_gap: bool = False
    """The message read last was trimmed: unread ones may be, too."""
    is_anew: bool = False
    """The stream was replaced: nothing of this page is queued, the stream's start is next."""
    first_id: str | None = None
    """The stream's oldest id; records of messages before it can be deleted."""


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
            whole = brought if whole is None else _joined(whole, brought)
            if len(page.messages) < most and not page.is_anew:
                return whole


def _joined(one: Gain, other: Gain) -> Gain:
    restarts = one.advance.restarts + other.advance.restarts
    names = dict.fromkeys(one.unmapped_names + other.unmapped_names)
    return Gain(
        one.reports + other.reports,
        tuple(names),
        Advance((), other.advance.known, restarts),
        one.is_first,
        skipped=one.skipped + other.skipped,
        is_anew=one.is_anew or other.is_anew,
        set_aside=one.set_aside + other.set_aside,
    )


async def peek(source: Source, request: ReadStream, state: State) -> Gain:
    """Compute the traffic that the next page would add; change nothing."""
    async with _opened(source, request) as redis:
        page = await _page(redis, source, request, state, MOST_MESSAGES)
    with state.spool.reading() as db:
        messages = unread(db, source.name, page.messages)
    return _gain(source, request, replace(page, messages=messages))


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
        brought = _gain(source, request, new)
        seen = Seen(
            brought.advance.known,
            counters=0,
            skipped=brought.skipped,
            restarts=int(page.has_gap or page.is_anew),
            reports=len(brought.reports),
            unmapped_names=brought.unmapped_names,
            set_aside=[f"{each.message_id}: {each.reason}" for each in brought.set_aside],
            note=_note(page),
        )
        state.spool.put_within(db, REPORTS, queued(brought.reports))
        state.keep_position(db, source.name, source.fingerprint, page.position, seen)
        remember(db, source.name, new.messages)
        if page.messages and page.first_id is not None and not page.is_anew:
            forget(db, source.name, before=page.first_id)
    return brought


def _note(page: Page) -> str | None:
    if page.is_anew:
        return "the stream was replaced, or restored: it was read from its start"
    if page.has_gap:
        return "the stream has a gap: unread messages were trimmed"
    return None


def _gain(source: Source, request: ReadStream, page: Page) -> Gain:
    now = datetime.now(tz=UTC)
    reports: list[Report] = []
    unmapped: dict[str, None] = {}
    set_aside: list[Unreadable] = []
    skipped = 0
    for message in page.messages:
        try:
            found, odd = usages(message.name, _text_of(message), now=now)
        except SourceError as error:
            set_aside.append(Unreadable(message.message_id, str(error)))
            continue
        skipped += odd
        for usage in found:
            try:
                reports.append(_report(source, request, usage))
            except ReportError:  # the name matches no user, or is one that no collector accepts
                unmapped[usage.user] = None
    step = Advance((), Known({}, Life()), int(page.has_gap or page.is_anew))
    return Gain(
        tuple(reports),
        tuple(unmapped),
        step,
        page.is_first,
        skipped=skipped,
        is_anew=page.is_anew,
        set_aside=tuple(set_aside),
    )


def _text_of(message: Message) -> dict[str, str]:
    """Return a message's fields as texts; SourceError if one is not UTF-8."""
    try:
        return {name.decode(): value.decode() for name, value in message.fields.items()}
    except UnicodeDecodeError:
        raise SourceError("it is not UTF-8") from None


def _report(source: Source, request: ReadStream, usage: Usage) -> Report:
    return Report(
        user=source.users.username(usage.user) or "",
        server=request.nodes.get(usage.node, f"{source.server}-{usage.node}"),
        port=source.port,
        protocol=source.protocol,
        upload_bytes=0,
        download_bytes=usage.amount_bytes,
        reported_at=usage.used_at,
        report_id=report_id(usage),
    )
