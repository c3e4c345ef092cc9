"""A background task that refreshes the gauges that are read from the ledger."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Sequence

from collector.errors import CollectorError
from collector.metrics import Metrics
from collector.parts import Collector
from collector.reports.report import DAY_MILLIS
from collector.reports.spikes import SHOWN_DAYS, BusyHour, by_reporter, describe, spikes_of

log = logging.getLogger(__name__)

REFRESH_SECONDS = 15.0
REFRESH_SHARE = 1 / 50
"""The largest share of time for it: counting takes as long as the ledger is large."""
MOST_BUSY_HOURS = 1000


async def keep_fresh(collector: Collector) -> None:
    """Refresh the ledger's gauges until cancelled."""
    is_recalled = False
    while True:
        started_at = time.monotonic()
        try:
            if not is_recalled or collector.backend.is_shared:  # other collectors take reports too
                await _recall_reporters(collector)
                is_recalled = True
            await refresh(collector)
        except (CollectorError, OSError, sqlite3.Error) as error:
            log.warning("the ledger's numbers could not be read: %s", error)
        took_seconds = time.monotonic() - started_at
        await asyncio.sleep(max(REFRESH_SECONDS, took_seconds / REFRESH_SHARE))


async def refresh(collector: Collector) -> None:
    """Read the ledger's size, counts and sums, and the lag of the export."""
    metrics, settings = collector.metrics, collector.settings
    metrics.retention_seconds.labels("reports").set(settings.dedup_window_days * 86_400)
    ring = await collector.rules.key_ring()
    metrics.forget_reporters(lambda name: ring.by_name(name) is None)
    if not collector.ingest.leads:
        _show_spikes(collector, ())
        _clear(metrics)  # one collector shows what is true of the ledger, or it would add up
        return
    await _refresh_spikes(collector)
    facts = await collector.read(lambda reader: reader.facts())
    metrics.ledger_size_bytes.set(facts.size_bytes)
    metrics.ledger_reports.set(facts.records)
    metrics.ledger_day_rows.set(facts.day_rows)
    metrics.ledger_users.set(facts.users)
    metrics.ledger_servers.set(facts.servers)
    metrics.ledger_traffic_bytes.labels("upload").set(facts.upload_bytes)
    metrics.ledger_traffic_bytes.labels("download").set(facts.download_bytes)
    metrics.ledger_billed_bytes.set(facts.billed_bytes)
    free_bytes = collector.backend.free_disk_bytes()
    if free_bytes is not None:
        metrics.ledger_free_disk_bytes.set(free_bytes)
    if collector.exporter is not None:
        for policy in settings.influxdb_kind.policies:
            seconds = settings.influx_retention_seconds[policy]
            metrics.retention_seconds.labels(policy).set(seconds)
        await _refresh_lag(collector)


def _clear(metrics: Metrics) -> None:
    for each in (
        metrics.ledger_size_bytes,
        metrics.ledger_reports,
        metrics.ledger_day_rows,
        metrics.ledger_users,
        metrics.ledger_servers,
        metrics.ledger_billed_bytes,
        metrics.ledger_traffic_bytes.labels("upload"),
        metrics.ledger_traffic_bytes.labels("download"),
        metrics.export_lag_reports,
        metrics.export_lag_seconds,
    ):
        each.set(0)


async def _refresh_spikes(collector: Collector) -> None:
    """Find the senders with a spike (`SpikeRule`), and log each once a day."""
    today, rule = collector.now_millis() // DAY_MILLIS, collector.settings.spike_rule
    days = range(today - SHOWN_DAYS + 1, today + 1)
    hours = await collector.read_long(
        lambda reader: reader.busy_hours(
            days=days, above_bytes=rule.floor_bytes, limit=MOST_BUSY_HOURS
        )
    )
    spikes = spikes_of(hours, rule)
    known = {(each.sender, each.day) for each in collector.spikes}
    for each in spikes:
        if (each.sender, each.day) not in known:
            collector.metrics.spikes.inc()
            log.warning("traffic_spike sender=%r: %s", each.sender, describe(each))
    _show_spikes(collector, spikes)


def _show_spikes(collector: Collector, spikes: Sequence[BusyHour]) -> None:
    gauge, shown = collector.metrics.sender_spike_bytes, by_reporter(spikes)
    for gone in by_reporter(collector.spikes).keys() - shown.keys():
        gauge.remove(gone)
    for name, amount_bytes in shown.items():
        gauge.labels(name).set(amount_bytes)
    collector.spikes = spikes


async def _refresh_lag(collector: Collector) -> None:
    """Show how far the stream that is furthest behind is."""
    policies = collector.settings.influxdb_kind.policies
    backlogs = await collector.read(lambda reader: [reader.backlog(policy) for policy in policies])
    now_millis = collector.now_millis()
    ages_millis = [
        now_millis - each.oldest_received_at_millis
        for each in backlogs
        if each.oldest_received_at_millis is not None
    ]
    collector.metrics.export_lag_reports.set(max(each.reports for each in backlogs))
    collector.metrics.export_lag_seconds.set(max([0, *ages_millis]) / 1000)


async def _recall_reporters(collector: Collector) -> None:
    """Set from the ledger when each reporter last reported before this process began."""
    last_reports, contacts = await collector.read(
        lambda reader: (reader.last_reports(), reader.contacts())
    )
    for name, at_millis in contacts.last_contacts.items():
        collector.metrics.note_contact(name, at_seconds=at_millis / 1000)
    for scope, at_millis in last_reports.items():
        collector.metrics.note_heard(scope, at_seconds=at_millis / 1000)
