"""Carries out corrections that are asked for beside a running collector."""

from __future__ import annotations

import asyncio
import logging
import sqlite3

from collector.api.context import Collector
from collector.errors import CollectorError
from collector.ledger.corrections import Correction

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""So often the ledger is asked whether a correction is open."""


async def carry_out_corrections(collector: Collector) -> None:
    """Carry out each correction that is open, until cancelled; of shared ledgers, the leader does.

    A step is one commit, and reports are stored between steps. What fails is tried again.
    """
    problem: str | None = None
    while True:
        try:
            await carry_out_open(collector)
            problem = None
        except (CollectorError, OSError, sqlite3.Error) as error:
            if problem != str(error):
                problem = str(error)
                log.warning("a correction could not be carried out, trying again: %s", error)
        await asyncio.sleep(LOOK_SECONDS)


async def carry_out_open(collector: Collector) -> None:
    """Carry out the corrections that are open now, if this collector writes the ledger's sums."""
    if collector.leading and not collector.leading.leads:
        return
    correction = await collector.read(lambda reader: reader.open_correction())
    if correction is None:
        return
    log.info("correction %d: begun or taken up again", correction.number)
    while await collector.ingest.run(
        lambda ledger: ledger.correct(now_millis=collector.now_millis())
    ):
        collector.ingest.commits.notify()
    collector.ingest.commits.notify()
    for each in await collector.read(lambda reader: reader.corrections(limit=100)):
        if each.number >= correction.number and each.done_at_millis is not None:
            _log(each)


def _log(correction: Correction) -> None:
    wanted = correction.wanted
    log.warning(
        "correction %d done (%s by %s: %s): %s",
        correction.number,
        wanted.kind,
        wanted.actor,
        wanted.reason,
        correction.problem
        or f"{correction.reports} reports voided, {correction.raw_bytes:+d} bytes, "
        f"{correction.billed_bytes:+d} billed",
    )
