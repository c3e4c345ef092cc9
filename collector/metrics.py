"""The collector's Prometheus instruments; bounded labels, never a user's or server's name."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """All instruments of one collector, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.accepted = Counter(
            "collector_reports_accepted", "Reports stored", registry=self.registry
        )
        self.duplicates = Counter(
            "collector_reports_duplicate",
            "Reports whose id was stored before",
            registry=self.registry,
        )
        self.conflicts = Counter(
            "collector_reports_conflicting",
            "Duplicates with another content than the first",
            registry=self.registry,
        )
        self.ignored = Counter(
            "collector_reports_ignored", "Reports of zero bytes", registry=self.registry
        )
        self.refused = Counter(
            "collector_reports_refused",
            "Reports refused, by the field at fault",
            ["field"],
            registry=self.registry,
        )
        self.requests = Counter(
            "collector_report_requests",
            "Requests with reports, by status",
            ["status"],
            registry=self.registry,
        )
        self.queued_reports = Gauge(
            "collector_queued_reports", "Reports waiting for a commit", registry=self.registry
        )
        self.group_reports = Histogram(
            "collector_group_reports",
            "Reports in one commit",
            buckets=(1, 3, 10, 30, 100, 300, 1000, 3000, 10000),
            registry=self.registry,
        )
        self.commit_seconds = Histogram(
            "collector_commit_seconds",
            "How long one commit took",
            buckets=(0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3),
            registry=self.registry,
        )
        self.lookups = Counter(
            "collector_subscription_lookups",
            "Subscription tokens to resolve, by result",
            ["result"],
            registry=self.registry,
        )
        self.feed_waiters = Gauge(
            "collector_feed_waiters", "Readers waiting for a change", registry=self.registry
        )
