"""Routes where a reader of the feed keeps its position, so that it notices a restored store.

A reader (a bridge) reports the position of its own store after each step. A store that was restored
from a copy is behind the position that was reported for it.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Path
from pydantic import BaseModel, Field

from collector.api.dependencies import CollectorPart
from collector.api.problems import ProblemError, documented
from collector.api.senders import admin_router
from collector.ledger.readers import ReaderPosition

router = admin_router("/v1/readers", tag="readers", statuses=(422, 503))

ReaderId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="Made by the reader, once")]


class ReportedPosition(BaseModel):
    """The position of a reader's own store: its newest entry's number, and that entry's digest."""

    position: int = Field(ge=0, le=2**62)
    mark: str = Field(pattern="^[0-9a-f]{0,64}$")
    panel: str = Field("", pattern="^[0-9a-f]{0,64}$")
    """A digest of the panel to whose users the store belongs."""


class KnownReader(ReportedPosition):
    """A reader, and the position that was reported for it."""

    reader: str


class KnownReaders(BaseModel):
    """All readers for which a position was ever reported."""

    readers: list[KnownReader]


@router.get("")
async def known_readers(collector: CollectorPart) -> KnownReaders:
    """List the reported positions, by which a reader with an empty store notices its loss."""
    found = await asyncio.to_thread(collector.backend.reader_positions)
    return KnownReaders(
        readers=[
            KnownReader(reader=reader, position=each.position, mark=each.mark, panel=each.panel)
            for reader, each in found.items()
        ]
    )


@router.get("/{reader}", responses=documented(404))
async def reported_position(reader: ReaderId, collector: CollectorPart) -> ReportedPosition:
    """Return the position that was last reported for a reader."""
    found = await asyncio.to_thread(collector.backend.reader_position, reader)
    if found is None:
        raise ProblemError(404, "no position has been reported for this reader")
    return ReportedPosition(position=found.position, mark=found.mark, panel=found.panel)


@router.put("/{reader}", responses=documented(400, 507))
async def report_position(
    reader: ReaderId, reported: ReportedPosition, collector: CollectorPart
) -> ReportedPosition:
    """Store a reader's position unless the stored one is higher; return the stored one."""
    wanted = ReaderPosition(reported.position, reported.mark, reported.panel)
    kept = await asyncio.to_thread(collector.backend.report_position, reader, wanted)
    return ReportedPosition(position=kept.position, mark=kept.mark, panel=kept.panel)
