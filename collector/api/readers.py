"""Readers of the feed leave word of how far their own books are, and are told after a restore."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, Field

from collector.api.dependencies import CollectorPart
from collector.api.problems import ProblemError, documented
from collector.api.senders import require_admin
from collector.ledger.readers import Standing

router = APIRouter(
    prefix="/v1/readers",
    tags=["readers"],
    dependencies=[Depends(require_admin)],
    responses=documented(401, 403, 422, 503),
)

ReaderId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="Made by the reader, once")]


class ReaderStanding(BaseModel):
    """How far a reader's own books are: the number of the newest entry, and a mark of it."""

    position: int = Field(ge=0, le=2**62)
    mark: str = Field(pattern="^[0-9a-f]{0,64}$")
    panel: str = Field("", pattern="^[0-9a-f]{0,64}$")
    """Whose users the books are of, as a digest."""


class KnownReader(ReaderStanding):
    """A reader that has left word."""

    reader: str


class KnownReaders(BaseModel):
    """All readers that ever left word."""

    readers: list[KnownReader]


@router.get("")
async def known_readers(collector: CollectorPart) -> KnownReaders:
    """List who has left word: a reader that begins anew can tell that its books were lost."""
    found = await asyncio.to_thread(collector.place.standings)
    return KnownReaders(
        readers=[
            KnownReader(reader=reader, position=each.position, mark=each.mark, panel=each.panel)
            for reader, each in found.items()
        ]
    )


@router.get("/{reader}", responses=documented(404))
async def reader_standing(reader: ReaderId, collector: CollectorPart) -> ReaderStanding:
    """Return how far a reader's books were when it last said so."""
    found = await asyncio.to_thread(collector.place.standing_of, reader)
    if found is None:
        raise ProblemError(404, "this reader has never left word")
    return ReaderStanding(position=found.position, mark=found.mark, panel=found.panel)


@router.put("/{reader}", responses=documented(400, 507))
async def keep_reader_standing(
    reader: ReaderId, standing: ReaderStanding, collector: CollectorPart
) -> ReaderStanding:
    """Remember how far a reader's books are, never less than before; answer what is remembered."""
    wanted = Standing(standing.position, standing.mark, standing.panel)
    kept = await asyncio.to_thread(collector.place.keep_standing, reader, wanted)
    return ReaderStanding(position=kept.position, mark=kept.mark, panel=kept.panel)
