"""Routes that read corrections: the list for operators, and a user's sums for the bridge."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import Query
from pydantic import AwareDatetime, BaseModel

from collector.api.dependencies import CollectorPart
from collector.api.senders import admin_router
from collector.api.usage_answers import MAX_SEQ, at
from collector.ledger.corrections import Correction, Kind, Stretch
from collector.reports.report import MAX_USERNAME_LENGTH

router = admin_router("/v1/corrections", tag="corrections", statuses=(400, 422, 503))

Seq = Annotated[int, Query(ge=0, le=MAX_SEQ)]


class CorrectionEntry(BaseModel):
    """A correction: who requested what, when and why, and its result so far."""

    number: int
    kind: Kind
    reason: str
    actor: str
    username: str | None
    """The corrected user; null for all users that `scope` reported."""
    scope: str | None
    """The sender whose reports were voided."""
    since: datetime | None
    until: datetime | None
    asked_at: datetime
    done_at: datetime | None
    """null until it is carried out completely."""
    problem: str | None
    """Why it was not carried out."""
    reports: int
    """The number of voided reports."""
    upload_bytes: int
    """Bytes added to the sums, negative if subtracted; the next two likewise."""
    download_bytes: int
    billed_bytes: int


class CorrectionList(BaseModel):
    """The newest corrections first."""

    corrections: list[CorrectionEntry]


class CorrectedSumAnswer(BaseModel):
    """What corrections added to a user's sums, within a range of sequence numbers."""

    billed_bytes: int
    raw_bytes: int
    period_billed_bytes: int
    """The part of it that belongs to the period; the next likewise."""
    period_raw_bytes: int
    corrections: list[CorrectionEntry]
    """The ten newest of these corrections, newest first."""


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
    """Sum a user's correction lines after one sequence number up to and including another.

    A void belongs to the period if its reports are after `period_seq`. Without `period_seq`, and
    for adjustments of a day, a line belongs to it if it was received since `period_since`.
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
