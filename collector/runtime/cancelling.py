"""Cancellation that a library took for an error of its own."""

from __future__ import annotations

import asyncio


def raise_if_cancelled() -> None:
    """Raise CancelledError in a task that was cancelled and runs on.

    A task is cancelled once. Where a library ends the cancelled call as if it had succeeded or
    failed, a loop around it would go on for ever, and its program would not end when told to. Call
    it behind such calls, and in such loops.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
