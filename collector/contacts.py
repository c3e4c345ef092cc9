"""Notes who reports and who is refused, and stores it in the ledger every few seconds."""

from __future__ import annotations

import asyncio
import logging
import sqlite3

from collector.errors import CollectorError
from collector.parts import Collector
from collector.reports.contacts import LONGEST_ADDRESS, Reason
from collector.runtime.http.strangers import network_of

log = logging.getLogger(__name__)

STORE_SECONDS = 5.0


def note_refused(collector: Collector, address: str, reason: Reason, *, whose: str = "") -> None:
    """Count a refused request; log it, once an hour for each address and reason.

    `whose` is the reporter whose key it once was. Of many addresses at once a line in half a
    minute is logged; all are counted.
    """
    network = network_of(address)[:LONGEST_ADDRESS]
    collector.contact_log.note_refusal(network, reason, at_millis=collector.now_millis())
    collector.metrics.requests_refused.labels(reason=reason.value).inc()
    now_seconds = collector.monotonic_seconds()
    if not collector.refused_senders.note(f"{network} {reason}", now_seconds=now_seconds):
        return
    if collector.refusal_lines.take("", now_seconds=now_seconds):
        return
    log.warning(
        "request_refused address=%s reason=%r%s: nothing of it is counted; `traffic-collector "
        "reporters list` shows how often",
        network or "unknown",
        reason.value,
        f" once_of={whose}" if whose else "",
    )


async def keep_contacts(collector: Collector) -> None:
    """Store contacts and refusals every few seconds until cancelled."""
    while True:
        await asyncio.sleep(STORE_SECONDS)
        await store_contacts(collector)


async def store_contacts(collector: Collector, *, is_last: bool = False) -> None:
    """Store what was noted before; a failure is logged once, and tried again later.

    Returns when it is stored, also if another call is storing it.
    """
    async with collector.storing_contacts:
        await _store(collector, is_last=is_last)


async def _store(collector: Collector, *, is_last: bool) -> None:
    for name, at_millis in collector.contact_log.last_contacts.items():
        collector.metrics.note_contact(name, at_seconds=at_millis / 1000)
    news = collector.contact_log.take(is_last=is_last)
    if news is None:
        return
    storing = collector.readers.submit(
        lambda: collector.backend.note_contacts(news, now_millis=collector.now_millis())
    )
    try:
        await asyncio.wrap_future(storing)
    except asyncio.CancelledError:
        if storing.cancel():  # no thread has begun with it
            collector.contact_log.give_back(news)
        raise
    except (CollectorError, OSError, sqlite3.Error) as error:
        collector.contact_log.give_back(news)
        collector.contact_outage.failed(str(error))
    else:
        collector.contact_outage.recovered()
