"""Ends tasks that ran in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any


async def end_all(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel the tasks and return once each has ended; what one raised stays in it."""
    for task in tasks:
        task.cancel()
    if tasks:  # asyncio refuses to wait for none
        await asyncio.wait(tasks)
