"""Asks several panels at the same time which user a subscription token belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from collector.intake.subscriptions.panel import SubscriptionPanel

EARLIER_PANELS_SECONDS = 1.0
"""How long a panel's answer waits for the panels before it, which may know the token, too."""


class Finding(NamedTuple):
    """The panels' answers about one token: its user, or the panels without it, and a failure."""

    username: str | None
    panel: str
    """The panel that knows it."""
    denied_by: frozenset[str]
    failure: BaseException | None


async def ask_all(panels: Sequence[SubscriptionPanel], token: str) -> Finding:
    """Ask panels at the same time; return once one knows the token, or all have answered."""
    tasks = [asyncio.create_task(panel.ask(token)) for panel in panels]
    try:
        place = await _first_proof(panels, tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    outcomes = [
        (panel.name, task.exception(), None if task.exception() else task.result())
        for panel, task in zip(panels, tasks, strict=True)
        if not task.cancelled()
    ]
    denied_by = frozenset(name for name, failure, user in outcomes if not failure and user is None)
    if place is not None:
        return Finding(tasks[place].result(), panels[place].name, denied_by, None)
    failures = [failure for _, failure, _ in outcomes if failure is not None]
    return Finding(None, "", denied_by, failures[0] if failures else None)


async def _first_proof(
    panels: Sequence[SubscriptionPanel], tasks: Sequence[asyncio.Task[str | None]]
) -> int | None:
    """Return the index of the first panel that knows the token, once one does; None if none does.

    A proof waits a moment for the panels before it, but for those that failed the last time.
    """
    waiting = set(tasks)
    while waiting:
        _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        place = _place_of_proof(tasks)
        if place is None:
            continue
        earlier = [
            task
            for panel, task in zip(panels[:place], tasks[:place], strict=True)
            if panel.is_up and not task.done()
        ]
        if earlier:
            await asyncio.wait(earlier, timeout=EARLIER_PANELS_SECONDS)
        return _place_of_proof(tasks)
    return None


def _place_of_proof(tasks: Sequence[asyncio.Task[str | None]]) -> int | None:
    return next(
        (
            place
            for place, task in enumerate(tasks)
            if task.done() and not task.exception() and task.result() is not None
        ),
        None,
    )
