"""Corrections out: the list for people, and sums of a user's corrections for the bridge."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime, BaseModel

from collector.api.dependencies import CollectorPart
from collector.api.problems import documented
from collector.api.senders import require_admin
from collector.api.usage_answers import MAX_SEQ, at
from collector.ledger.corrections import Correction, Kind, Stretch
from collector.reports.report import MAX_USERNAME_LENGTH

router = APIRouter(
    prefix="/v1/corrections",
    tags=["corrections"],
    dependencies=[Depends(require_admin)],
    responses=documented(400, 401, 403, 422, 503),
)

Seq = Annotated[int, Query(ge=0, le=MAX_SEQ)]


class CorrectionEntry(BaseModel):
    """A correction: who asked for what, when and why, and what came of it so far."""

    number: int
    kind: Kind
    reason: str
    actor: str
    username: str | None
    """Whose bytes; null for those of all users that `scope` reported."""
    scope: str | None
    """Who reported what was voided."""
    since: datetime | None
    until: datetime | None
    asked_at: datetime
    done_at: datetime | None
    """null until it is carried out to its end."""
    problem: str | None
    """Why it was not carried out."""
    reports: int
    """So many were voided."""
    upload_bytes: int
    """Added to the sums; negative for what was taken back, as the next two."""
    download_bytes: int
    billed_bytes: int


class CorrectionList(BaseModel):
    """The newest corrections first."""

    corrections: list[CorrectionEntry]


class CorrectedSumAnswer(BaseModel):
    """What corrections added to a user within a stretch of the ledger's numbers."""

    billed_bytes: int
    raw_bytes: int
    period_billed_bytes: int
    """What of it belongs to the period; so is the next."""
    period_raw_bytes: int
    corrections: list[CorrectionEntry]
    """Those that it is of, the newest ten first."""


@router.get("")
async def list_corrections(
    collector: CollectorPart, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> CorrectionList:
    """List the newest corrections first."""
    found = await collector.read(lambda reader: reader.corrections(limit=limit))
    return CorrectionList(corrections=[_entry(each) for each in found])


@router.get("/sum")
async def sum_of_corrections(
    *,
    collector: CollectorPart,
    username: Annotated[str, Query(min_length=1, max_length=MAX_USERNAME_LENGTH)],
    after_seq: Seq,
    through_seq: Seq,
    period_since: AwareDatetime,
    period_seq: Annotated[int | None, Query(ge=0, le=MAX_SEQ)] = None,
) -> CorrectedSumAnswer:
    """Sum a user's lines of corrections after one number through another.

    Of the period is what was voided of the reports after `period_seq`; without it, and for
    adjustments of a day, what was received since `period_since`.
    """
    stretch = Stretch(
        username=username,
        after_seq=after_seq,
        through_seq=through_seq,
        period_seq=period_seq,
        period_since_millis=int(period_since.timestamp() * 1000),
    )
    found = await collector.read(lambda reader: reader.corrected_sum(stretch))
    return CorrectedSumAnswer(
        billed_bytes=found.billed_bytes,
        raw_bytes=found.raw_bytes,
        period_billed_bytes=found.period_billed_bytes,
        period_raw_bytes=found.period_raw_bytes,
        corrections=[_entry(each) for each in found.corrections],
    )


def _entry(found: Correction) -> CorrectionEntry:
    wanted = found.wanted
    return CorrectionEntry(
        number=found.number,
        kind=wanted.kind,
        reason=wanted.reason,
        actor=wanted.actor,
        username=wanted.username,
        scope=wanted.scope,
        since=None if wanted.since_millis is None else at(wanted.since_millis),
        until=None if wanted.until_millis is None else at(wanted.until_millis),
        asked_at=at(found.asked_at_millis),
        done_at=None if found.done_at_millis is None else at(found.done_at_millis),
        problem=found.problem,
        reports=found.reports,
        upload_bytes=found.upload_bytes,
        download_bytes=found.download_bytes,
        billed_bytes=found.billed_bytes,
    )
