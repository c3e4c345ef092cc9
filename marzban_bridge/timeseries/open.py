"""Opens the writer of time series as the settings say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from collector.influx.client import Influx
from marzban_bridge.clock import Clock
from marzban_bridge.config.panels_file import PanelSettings
from marzban_bridge.config.settings import Settings
from marzban_bridge.metrics import Metrics
from marzban_bridge.panels.port import Panel
from marzban_bridge.panels.user_page import user_page
from marzban_bridge.reconcile.standstill import Standstill
from marzban_bridge.store.store import Store
from marzban_bridge.timeseries.writer import TimeSeriesWriter


def open_writer(
    settings: Settings,
    configured: Sequence[PanelSettings],
    panels: Mapping[str, Panel],
    *,
    store: Store,
    clock: Clock,
    metrics: Metrics,
    standstill: Standstill,
) -> TimeSeriesWriter | None:
    """Return the writer of the bridge's points, not started; None without `INFLUXDB_URL`."""
    if not settings.influxdb_url:
        return None
    addresses = {each.name: each.url for each in configured}

    def page_of(panel: str, username: str) -> str:
        return user_page(addresses[panel], panels[panel].dialect.kind, username)

    return TimeSeriesWriter(
        store=store,
        influx=Influx(settings.influx_access()),
        clock=clock,
        metrics=metrics,
        heartbeat_seconds=settings.snapshot_seconds,
        raw_days=settings.influxdb_raw_days,
        standstill=standstill,
        page_of=page_of,
    )
