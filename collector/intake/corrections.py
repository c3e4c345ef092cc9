"""Carries out requested corrections in a running collector."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable

from collector.errors import CollectorError
from collector.intake.ingest import Ingest
from collector.ledger.async_read import AsyncRead
from collector.ledger.corrections import Correction

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""How often the ledger is polled for requested corrections."""


class CorrectionRunner:
    """Carries out the corrections of one ledger; with a shared ledger, on the leader only.

    A correction is carried out in steps of one commit each; reports are stored between steps.
    """

    def __init__(
        self,
        ingest: Ingest,
        *,
        read: AsyncRead,
        now_millis: Callable[[], int],
    ) -> None:
        self._ingest = ingest
        self._read = read
        self._now_millis = now_millis

    async def run(self) -> None:
        """Carry out requested corrections until cancelled; retry after a failure."""
        problem: str | None = None
        while True:
            try:
                await self.carry_out_open()
                problem = None
            except (CollectorError, OSError, sqlite3.Error) as error:
                if problem != str(error):
                    problem = str(error)
                    log.warning("a correction could not be carried out, it is retried: %s", error)
            await asyncio.sleep(POLL_SECONDS)

    async def carry_out_open(self) -> None:
        """Carry out the corrections requested so far, if this collector writes the ledger's sums.

        Raises LedgerError and NotStoredError.
        """
        if not self._ingest.leads:
            return
        correction = await self._read(lambda reader: reader.open_correction())
        if correction is None:
            return
        log.info("correction %d: started or resumed", correction.number)
        while await self._ingest.run(lambda ledger: ledger.correct(now_millis=self._now_millis())):
            self._ingest.commits.notify()
        self._ingest.commits.notify()
        for each in await self._read(lambda reader: reader.corrections(limit=100)):
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
