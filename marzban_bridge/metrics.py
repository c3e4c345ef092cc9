"""The bridge's Prometheus metrics; labels are bounded, none is the name of a user.

Each panel has its own; what is not about one panel is in the first panel's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

import marzban_bridge
from marzban_bridge.quota.resellers.reseller import Reseller

PROCESS_WIDE = frozenset(
    {
        "bridge",
        "bridge_collector_up",
        "bridge_influx_up",
        "bridge_leads",
        "bridge_snapshot_points",
        "bridge_snapshot_refused_points",
        "bridge_store_in_doubt",
    }
)


def _leads(registry: CollectorRegistry) -> Gauge:
    return Gauge(
        "bridge_leads",
        "Whether this bridge does the work (1) or follows one that does (0)",
        registry=registry,
    )


FOLLOWING = CollectorRegistry()
"""The metrics of a bridge that follows: only `bridge_leads`."""
_leads(FOLLOWING)


class Metrics:
    """All metrics of one panel's bridge, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        info = partial(Info, registry=self.registry)
        self.changes = counter(
            "bridge_changes", "Changes to users in the panel", ["kind", "result"]
        )
        self.resets = counter(
            "bridge_resets", "Resets of users, by how they were detected", ["cause"]
        )
        self.webhooks = counter("bridge_webhooks", "Webhook deliveries from the panel", ["result"])
        self.last_webhook_timestamp_seconds = gauge(
            "bridge_last_webhook_timestamp_seconds",
            "When the panel's last webhook was accepted (of before a restart: to a minute); 0 if "
            "none was",
        )
        self.soft_errors = counter("bridge_soft_errors", "Failures that are retried", ["source"])
        self.evaluations = counter("bridge_looks", "Evaluations of users: read and settled")
        self.panel = info("bridge_panel", "Kind and version of the panel")
        self.panel_up = gauge("bridge_panel_up", "Whether the panel answers (1) or not (0)")
        self.collector_up = gauge(
            "bridge_collector_up", "Whether the collector's feed answers (1) or not (0)"
        )
        self.accounts = gauge("bridge_accounts", "Panel users with external usage")
        self.online_users = gauge(
            "bridge_online_users",
            "Panel users with external usage whom the panel saw online within five minutes",
        )
        self.unknown_names = gauge("bridge_orphans", "Reported names that the panel has no user of")
        self.held = gauge(
            "bridge_held_accounts",
            "Accounts held because the ledger lost reports; see marzban-bridge rebase",
        )
        self.set_aside = gauge(
            "bridge_set_aside_users",
            "Users whose entry in the panel cannot be parsed; they are not changed",
        )
        self.panel_suspended = gauge(
            "bridge_panel_in_doubt",
            "Whether the panel is suspended, so that no user is changed (1), by reason",
            ["reason"],
        )
        self.stopped_admins = gauge(
            "bridge_stopped_admins",
            "Admins whose users the panel may keep off its nodes (1), by reason: its own limit is "
            "used up, or the admin is disabled",
            ["admin", "reason"],
        )
        self._resellers = tuple(
            gauge(f"bridge_reseller_{name}", text, ["admin"])
            for name, text in (
                ("quota_bytes", "Quota of an admin's users together"),
                ("used_bytes", "What an admin's users together have used in the period"),
                ("used_ratio", "The used share of an admin's quota"),
                ("cut_off", "Whether an admin's users are cut off, its quota being enforced (1)"),
            )
        )
        self.last_pass_timestamp_seconds = gauge(
            "bridge_last_pass_timestamp_seconds", "When the last pass over all users ended"
        )
        self.pass_seconds = gauge(
            "bridge_pass_seconds", "How long the last pass over all users took"
        )
        self.reaction_seconds = histogram(
            "bridge_reaction_seconds",
            "Time from reading a change in the feed until the user is settled in the panel",
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 2, 5, 15, 60),
        )
        self.actions = counter(
            "bridge_actions", "Actions from dashboards and confirm pages", ["action", "result"]
        )
        self.snapshot_points = counter(
            "bridge_snapshot_points", "Points that InfluxDB stored", ["measurement"]
        )
        self.snapshot_refused_points = counter(
            "bridge_snapshot_refused_points",
            "Points that InfluxDB refused for good",
            ["measurement"],
        )
        self.store_suspended = gauge(
            "bridge_store_in_doubt",
            "Whether the store is suspended (1), so that no user is changed: it lacks commits",
        )
        self.leads = _leads(self.registry)
        self._info = info("bridge", "Version and configuration")
        self._influx_up: Gauge | None = None

    def introduce(self, *, public_url: str, enforcement: str) -> None:
        """Set the labels of `bridge_info`: version, enforcement and public URL."""
        self._info.info(
            {
                "public_url": public_url,
                "version": marzban_bridge.__version__,
                "enforcement": enforcement,
            }
        )

    def show_resellers(self, resellers: Sequence[Reseller]) -> None:
        """Set the quotas and usage of resellers; remove those of all other admins."""
        for gauge in self._resellers:
            gauge.clear()
        for each in resellers:
            values = (each.quota_bytes, each.used_bytes, each.used_ratio, each.is_cut_off)
            for gauge, value in zip(self._resellers, values, strict=True):
                gauge.labels(admin=each.admin).set(value)

    def watch_resets(
        self, *, pending: Callable[[], float], oldest_seconds: Callable[[], float]
    ) -> None:
        """Expose the number and age of unfinished resets; both are computed at each scrape."""
        Gauge(
            "bridge_pending_resets",
            "Resets that were requested and are not finished",
            registry=self.registry,
        ).set_function(pending)
        Gauge(
            "bridge_oldest_pending_reset_seconds",
            "Age of the oldest unfinished reset; 0 when there is none",
            registry=self.registry,
        ).set_function(oldest_seconds)

    def influx_answered(self, *, is_up: bool) -> None:
        """Set whether InfluxDB accepts points; the metric exists from the first try on."""
        if self._influx_up is None:
            self._influx_up = Gauge(
                "bridge_influx_up",
                "Whether InfluxDB accepts points (1) or not (0)",
                registry=self.registry,
            )
        self._influx_up.set(int(is_up))


class Exposition(Collector):
    """The metrics of all panels; with several panels each sample has the label `panel`."""

    def __init__(self, of_panels: Mapping[str, Metrics]) -> None:
        self._of_panels = of_panels

    def collect(self) -> Iterable[Metric]:
        """Return every metric family once."""
        families: dict[str, Metric] = {}
        for place, (panel, metrics) in enumerate(self._of_panels.items()):
            for family in metrics.registry.collect():
                if family.name in PROCESS_WIDE:
                    if place == 0:
                        families[family.name] = family
                    continue
                exposed = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                label = {"panel": panel} if len(self._of_panels) > 1 else {}
                exposed.samples += [
                    each._replace(labels=label | each.labels) for each in family.samples
                ]
        return families.values()
