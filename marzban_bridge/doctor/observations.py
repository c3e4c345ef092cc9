"""What each program the bridge depends on answered; `findings.py` judges it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from marzban_bridge.panels.check import PanelCheck


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelObservation:
    """A panel's answers, or the error."""

    name: str
    url: str
    check: PanelCheck | None = None
    error: str = ""
    """Why there is no check; it says what to do."""
    clock_ahead_seconds: float | None = None
    """How far its clock, or that of a proxy before it, is ahead; None if answers have no date."""
    has_webhook_secret: bool = True
    webhook_path: str = "/webhooks/marzban"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookObservation:
    """What the running bridge received from one panel."""

    taken: int = 0
    refused: int = 0
    """Deliveries with another secret; both since the bridge's start."""
    last_at: datetime | None = None
    """The newest one it took; of before its start, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeObservation:
    """What the running bridge says of itself."""

    url: str
    error: str = ""
    status: str = ""
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    enforcement: str = ""
    webhooks: Mapping[str, WebhookObservation] = field(default_factory=dict)
    """By panel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorObservation:
    """What the collector says of itself."""

    url: str
    error: str = ""
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    key_error: str = ""
    """Why it refused requests that need COLLECTOR_ADMIN_KEY; it says what to do."""
    free_disk_bytes: int | None = None
    """On the ledger's disk; None for a ledger in PostgreSQL."""
    reporter_keys: int | None = None
    """Reporters with a valid key; None from a collector of an earlier version."""
    last_report_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesObservation:
    """InfluxDB or Grafana: its address, and what is wrong with it."""

    url: str = ""
    """Empty where none is configured."""
    error: str = ""
    is_passing: bool = False
    """Whether the error may end without anyone doing something, as an outage does."""
    product: str = "InfluxDB"
    """Which product it is; others take points as well."""
    without_dashboards: str = ""
    """Why the dashboards do not read it; empty if they do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """The answers of all programs, asked at one time."""

    asked_at: datetime
    bridge_host: str
    """The address the bridge listens on."""
    panels: tuple[PanelObservation, ...]
    bridge: BridgeObservation
    collector: CollectorObservation
    influxdb: SeriesObservation
    grafana: SeriesObservation
