"""Reads pages of a panel that fails at one of the users on them: in halves, down to that user.

Whether it is the panel that fails is asked once for all parts and pages of a reading: an outage
must not become a request for each user.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from marzban_bridge.errors import PanelFailingError

Prove = Callable[[], Awaitable[object]]
"""Raises when it is the panel that fails, and not one of its users."""


def once(prove: Prove) -> Prove:
    """Return what proves that the panel is there once, and asks nothing after that."""
    is_there = False

    async def prove_once() -> None:
        nonlocal is_there
        if not is_there:
            await prove()
            is_there = True

    return prove_once


async def past_failures(
    ask: Callable[[int, int], Awaitable[list[str]]], prove: Prove, *, offset: int, limit: int
) -> list[str]:
    """Return a page of names; a user at whom the panel fails is an empty one.

    `ask` is called with an offset and a limit.
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
