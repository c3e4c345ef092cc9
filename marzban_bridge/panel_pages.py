"""Reads pages of a panel that fails at one of the users on them: in halves, down to that user."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from marzban_bridge.errors import PanelFailingError


async def past_failures(
    ask: Callable[[int, int], Awaitable[list[str]]],
    prove: Callable[[], Awaitable[object]],
    *,
    offset: int,
    limit: int,
) -> list[str]:
    """Return a page of names; a user at whom the panel fails is an empty one.

    `ask` is called with an offset and a limit. `prove` raises when it is the panel that fails, and
    not one of its users.
    """
    try:
        return await ask(offset, limit)
    except PanelFailingError:
        await prove()
        if limit == 1:
            return [""]
    half = limit // 2
    first = await past_failures(ask, prove, offset=offset, limit=half)
    if len(first) < half:
        return first
    return first + await past_failures(ask, prove, offset=offset + half, limit=limit - half)
