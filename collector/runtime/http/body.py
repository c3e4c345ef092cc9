"""Reads a request's body no further than it may be long, and no longer than it may take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from collector.runtime.http.at_once import is_body_there

LEAST_BYTES_PER_SECOND = 8192
"""A body that arrives more slowly than this is given up, after its first seconds."""


class BodyError(Exception):
    """A body cannot be read; its connection is of no more use."""


class BodyTooLongError(BodyError):
    """A body is longer than it may be."""


class BodyTooSlowError(BodyError):
    """A body takes too long to arrive."""


class BodyCutOffError(BodyError):
    """A body ends too early: its client has disconnected, and receives no answer."""


async def read_body(
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    *,
    limit_bytes: int,
    read_seconds: float,
    reserve: Callable[[int], None] = lambda _: None,
) -> bytes:
    """Return the body whose parts an ASGI `receive` gives.

    `reserve` is told of each part's bytes before they are kept, and may refuse by raising. Raises
    BodyTooLongError, BodyTooSlowError and BodyCutOffError.
    """
    if is_body_there(receive):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BodyCutOffError
        whole: bytes = message.get("body", b"")
        reserve(len(whole))
        if len(whole) > limit_bytes:
            raise BodyTooLongError
        return whole
    body = bytearray()
    now_seconds = asyncio.get_running_loop().time
    latest = now_seconds() + read_seconds
    is_whole = False
    try:
        async with asyncio.timeout_at(latest) as deadline:
            while not is_whole:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise BodyCutOffError
                is_whole = not message.get("more_body", False)
                part = message.get("body", b"")
                reserve(len(part))
                if len(body) + len(part) > limit_bytes:
                    raise BodyTooLongError
                if is_whole and not body:
                    return bytes(part)
                body += part
                latest += len(part) / LEAST_BYTES_PER_SECOND
                # Parts that came fast must not save up time for slow ones.
                latest = min(latest, now_seconds() + read_seconds)
                deadline.reschedule(latest)
    except TimeoutError as error:
        raise BodyTooSlowError from error
    return bytes(body)
