"""Asks panels, collector, the running bridge, InfluxDB and Grafana; changes nothing in any."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from collector.influx.client import Influx
from collector.influx.outcome import Halt, Retry
from collector.runtime.listening import local_url
from collector.schema import Policy
from marzban_bridge.api.answers import SERVICE
from marzban_bridge.clock import Clock
from marzban_bridge.config.open_panel import open_panel
from marzban_bridge.config.panels_file import PanelSettings
from marzban_bridge.config.settings import Settings
from marzban_bridge.config.webhook_secrets import webhook_path
from marzban_bridge.doctor.observations import (
    BridgeObservation,
    CollectorObservation,
    Observations,
    PanelObservation,
    SeriesObservation,
    WebhookObservation,
)
from marzban_bridge.errors import CollectorRefusedError, CollectorUnavailableError, PanelError
from marzban_bridge.feed.client import CollectorFeed

TIMEOUT_SECONDS = 20.0


async def observe(
    settings: Settings,
    panels: Sequence[PanelSettings],
    *,
    collector_url: str,
    grafana_url: str,
    clock: Clock,
) -> Observations:
    """Ask all programs at the same time; one that does not answer raises nothing.

    Its observation says why. The bridge is the one that listens on the configured address of this
    machine. Without `grafana_url` Grafana is not asked.
    """
    (bridge, collector, influxdb, grafana), seen = await asyncio.gather(
        asyncio.gather(
            _ask_bridge(settings, first=panels[0].name),
            _ask_collector(settings, collector_url),
            _ask_influxdb(settings),
            _ask_grafana(grafana_url),
        ),
        asyncio.gather(*(_ask_panel(each, clock) for each in panels)),
    )
    return Observations(
        asked_at=clock(),
        bridge_host=settings.host,
        panels=tuple(seen),
        bridge=bridge,
        collector=collector,
        influxdb=influxdb,
        grafana=grafana,
    )


async def _ask_panel(configured: PanelSettings, clock: Clock) -> PanelObservation:
    panel = open_panel(configured)
    check, error = None, ""
    try:
        check = await panel.check()
    except PanelError as refusal:
        error = str(refusal)
    finally:
        await panel.close()
    return PanelObservation(
        name=configured.name,
        url=configured.url,
        check=check,
        error=error,
        clock_ahead_seconds=await _clock_ahead_seconds(configured.url, clock),
        has_webhook_secret=bool(configured.webhook_secret),
        webhook_path=webhook_path(configured.name),
    )


async def _clock_ahead_seconds(url: str, clock: Clock) -> float | None:
    """Return how far the panel's `Date` header is ahead of this machine's clock; None without one.

    The request may have taken all of the difference: half of its round trip is subtracted, so that
    a slow panel does not look like one with a wrong clock.
    """
    before = clock()
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS) as client:
            answer = await client.get(f"{url}/api/admin")
        dated = parsedate_to_datetime(answer.headers["date"])
    except (httpx.HTTPError, httpx.InvalidURL, KeyError, TypeError, ValueError):
        return None
    if dated.tzinfo is None:
        dated = dated.replace(tzinfo=UTC)
    one_way_seconds = (clock() - before).total_seconds() / 2
    ahead_seconds = (dated - before).total_seconds() - one_way_seconds
    return math.copysign(max(0.0, abs(ahead_seconds) - one_way_seconds), ahead_seconds)


async def _ask_bridge(settings: Settings, *, first: str) -> BridgeObservation:
    url = local_url(settings.host, settings.port)
    async with _local_client(url) as client:
        try:
            said = (await client.get("/readyz")).json()
            if said["service"] != SERVICE:
                return BridgeObservation(url=url, error=f"another program answers at {url}")
            status = str(said["status"])
            webhooks: dict[str, WebhookObservation] = {}
            if status != "following":
                webhooks = _webhooks_of((await client.get("/metrics")).text, first=first)
        except httpx.HTTPError as error:
            return BridgeObservation(
                url=url, error=f"no bridge answers at {url} ({type(error).__name__})"
            )
        except (KeyError, TypeError, ValueError):
            return BridgeObservation(url=url, error=f"another program answers at {url}")
    return BridgeObservation(
        url=url,
        status=status,
        reasons=_texts(said, "reasons"),
        warnings=_texts(said, "warnings"),
        enforcement=str(said.get("enforcement") or ""),
        webhooks=webhooks,
    )


def _webhooks_of(exposition: str, *, first: str) -> dict[str, WebhookObservation]:
    """Parse the webhook metrics by panel; a sample without the label is of the panel `first`."""
    counts: dict[tuple[str, str], int] = {}
    last: dict[str, datetime] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            panel = sample.labels.get("panel", first)
            if sample.name == "bridge_webhooks_total":
                counts[panel, sample.labels["result"]] = int(sample.value)
            elif sample.name == "bridge_last_webhook_timestamp_seconds" and sample.value:
                last[panel] = datetime.fromtimestamp(sample.value, tz=UTC)
    return {
        panel: WebhookObservation(
            taken=counts.get((panel, "taken"), 0),
            refused=counts.get((panel, "refused"), 0),
            last_at=last.get(panel),
        )
        for panel in {panel for panel, _ in counts} | set(last)
    }


async def _ask_collector(settings: Settings, url: str) -> CollectorObservation:
    feed = CollectorFeed(url, admin_key=settings.collector_admin_key)
    try:
        async with _local_client(url) as client:
            said = (await client.get("/readyz")).json()
            reasons, warnings = _texts(said, "reasons"), _texts(said, "warnings")
        facts = await feed.database()
    except (httpx.HTTPError, httpx.InvalidURL, CollectorUnavailableError) as error:
        reason = type(error).__name__ if isinstance(error, httpx.HTTPError) else error
        return CollectorObservation(url=url, error=f"no collector answers at {url} ({reason})")
    except (KeyError, TypeError, ValueError):
        return CollectorObservation(url=url, error=f"another program answers at {url}")
    except CollectorRefusedError as error:
        return CollectorObservation(
            url=url, reasons=reasons, warnings=warnings, key_error=str(error)
        )
    finally:
        await feed.close()
    return CollectorObservation(
        url=url,
        reasons=reasons,
        warnings=warnings,
        free_disk_bytes=_whole_of(facts, "free_disk_bytes"),
        reporter_keys=_whole_of(facts, "reporter_keys"),
        last_report_at=_moment_of(facts, "last_report_at"),
    )


async def _ask_influxdb(settings: Settings) -> SeriesObservation:
    """Send a write without points to the bucket of the bridge's points: it checks the token."""
    url = settings.influxdb_url
    if not url:
        return SeriesObservation()
    kind = settings.influxdb_kind
    seen = SeriesObservation(
        url=url, product=kind.product, without_dashboards=kind.reason_without_dashboards
    )
    influx = Influx(settings.influx_access())
    if fault := influx.token_fault():
        return replace(seen, error=fault)
    try:
        outcome = await asyncio.to_thread(influx.write, Policy.RAW.bucket, [])
    finally:
        influx.close()
    if isinstance(outcome, Retry | Halt):  # else the token is accepted, and only the body refused
        return replace(seen, error=outcome.reason, is_passing=isinstance(outcome, Retry))
    return seen


async def _ask_grafana(url: str) -> SeriesObservation:
    if not url:
        return SeriesObservation()
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            answer = await client.get(f"{url.rstrip('/')}/api/health")
            is_well = answer.json()["database"] == "ok" and answer.is_success
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return SeriesObservation(
            url=url, error=f"no Grafana answers at {url} ({type(error).__name__})", is_passing=True
        )
    except (KeyError, TypeError, ValueError):
        return SeriesObservation(
            url=url,
            error=f"another program than Grafana answers at {url}: give Grafana's address with "
            "--grafana, or in GRAFANA_ROOT_URL",
        )
    if not is_well:
        return SeriesObservation(
            url=url, error=f"Grafana at {url} says that its database fails: see Grafana's log"
        )
    return SeriesObservation(url=url)


def _local_client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=TIMEOUT_SECONDS, trust_env=False)


def _texts(said: Mapping[str, Any], name: str) -> tuple[str, ...]:
    return tuple(str(each) for each in said[name])


def _whole_of(facts: Mapping[str, object], name: str) -> int | None:
    value = facts.get(name)
    return value if isinstance(value, int) else None


def _moment_of(facts: Mapping[str, object], name: str) -> datetime | None:
    value = facts.get(name)
    with contextlib.suppress(ValueError):
        return datetime.fromisoformat(value) if isinstance(value, str) else None
    return None
