"""The collector's Prometheus metrics; labels are bounded, none is the name of a user or server."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from collector.schema import Policy


class Metrics:
    """All metrics of one collector, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self._add_reports(counter)
        self._add_senders(counter, gauge)
        self._add_commits(gauge, histogram)
        self.lookups = counter(
            "collector_subscription_lookups",
            "Subscription tokens to resolve, by result",
            ["result"],
        )
        self.panel_answers = counter(
            "collector_subscription_panel_answers",
            "Requests to a panel about a subscription token, by panel and result",
            ["panel", "result"],
        )
        self.feed_waiters = gauge(
            "collector_feed_waiters", "Readers that wait for a change in the feed"
        )
        self._add_export(counter)
        self._add_ledger(gauge)
        self._heard: dict[str, Gauge] = {}
        """By scope, when a reporter last reported."""
        self._in_contact: dict[str, float] = {}

    def _add_reports(self, counter: Callable[..., Counter]) -> None:
        """Add reports, by what was done with them."""
        self.accepted = counter("collector_reports_accepted", "Reports stored")
        self.duplicates = counter(
            "collector_reports_duplicate", "Reports whose id was stored before"
        )
        self.conflicts = counter(
            "collector_reports_conflicting", "Duplicates that differ from the report stored first"
        )
        self.ignored = counter("collector_reports_ignored", "Reports of zero bytes")
        self.ahead = counter(
            "collector_reports_ahead",
            "Reports dated in the future, stored with the time of their arrival",
        )
        self.refused = counter(
            "collector_reports_refused", "Reports refused, by each wrong field", ["field"]
        )
        self.unknown_fields = counter(
            "collector_reports_unknown_fields",
            "Unknown fields in reports, by the known field that is meant (empty if none is close)",
            ["meant"],
        )
        self.beyond_capacity = counter(
            "collector_reports_beyond_capacity",
            "Reports not stored, since their user's total is full",
        )

    def _add_senders(self, counter: Callable[..., Counter], gauge: Callable[..., Gauge]) -> None:
        """Add requests, and the bounds and last contacts of their senders."""
        self.requests = counter(
            "collector_report_requests", "Requests with reports, by status", ["status"]
        )
        self.count_answered = self.requests.labels("200").inc
        self.requests_refused = counter(
            "collector_requests_refused",
            "Requests with reports that were refused before their body was decoded, by reason",
            ["reason"],
        )
        self.retries = counter(
            "collector_source_retries",
            "Pushes without an id that were taken for retries of an earlier push",
            ["source"],
        )
        self.beyond_bounds = counter(
            "collector_requests_beyond_bounds",
            "Requests refused, since their sender reports more bytes than its settings allow; of "
            "users without a key `reporter` is empty",
            ["reporter", "span"],
        )
        self.under_other = counter(
            "collector_reports_under_other",
            "Reports counted under the server `other`, since their sender named too many servers "
            "that day; of users without a key `reporter` is empty",
            ["reporter"],
        )
        self.sender_spike_bytes = gauge(
            "collector_sender_spike_bytes",
            "The largest hour of a reporter, today or yesterday, that is far beyond its past; "
            "of users without a key the largest, with an empty `reporter`",
            ["reporter"],
        )
        self.spikes = counter(
            "collector_spikes",
            "Days on which a sender had an hour far beyond its past, as this process found them",
        )
        self.reporter_last_contact = gauge(
            "collector_reporter_last_contact_timestamp_seconds",
            "When the key of a reporter was last accepted, whether or not it sent a report",
            ["reporter"],
        )
        self.reporter_last_report = gauge(
            "collector_reporter_last_report_timestamp_seconds",
            "When a reporter with a key last sent a report",
            ["reporter"],
        )

    def _add_commits(
        self, gauge: Callable[..., Gauge], histogram: Callable[..., Histogram]
    ) -> None:
        """Add the queue, commits, and what a shared ledger has or lacks."""
        self.queued_reports = gauge("collector_queued_reports", "Reports waiting for a commit")
        self.group_reports = histogram(
            "collector_group_reports",
            "Reports in one commit",
            buckets=(1, 3, 10, 30, 100, 300, 1000, 3000, 10000),
        )
        self.commit_seconds = histogram(
            "collector_commit_seconds",
            "How long one commit took",
            buckets=(0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3),
        )
        self.fold_seconds = histogram(
            "collector_fold_seconds",
            "How long adding up a group of stored reports took",
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
        )
        self.lacks_commits = gauge(
            "collector_ledger_lacks_commits",
            "Whether reports that this collector has seen in the ledger are missing in it now (1)",
        )
        self.lost_reports = gauge(
            "collector_lost_reports",
            "Reports that this collector acknowledged and that are missing in the ledger, of those "
            "it remembers",
        )
        self.standby_waiting = gauge(
            "collector_ledger_standby_waiting",
            "Sessions of the ledger's user that have waited for a synchronous standby for seconds",
        )
        self.leads = Gauge(
            "collector_leads",
            "Whether this collector adds up, exports and purges (1) or another one does (0)",
            registry=None,
        )

    def _add_export(self, counter: Callable[..., Counter]) -> None:
        """Add the export to InfluxDB; gauges of it are exposed by `expose_export`."""
        self.influx_up = Gauge(
            "collector_influx_up",
            "Whether the last write of each stream to InfluxDB was stored (1) or not (0)",
            registry=None,
        )
        self.export_up = Gauge(
            "collector_export_up",
            "Whether the last write of this stream to InfluxDB was stored (1) or not (0)",
            ["stream"],
            registry=None,
        )
        self.export_points = counter(
            "collector_export_points", "Points stored in InfluxDB", ["stream"]
        )
        self.export_dead_letters = counter(
            "collector_export_dead_letters", "Points InfluxDB refused for good", ["stream"]
        )
        self.export_expired = counter(
            "collector_export_expired_points",
            "Points not sent or not stored, since they are older than their retention policy",
            ["stream"],
        )
        self.export_requests = counter(
            "collector_export_requests",
            "Write requests to InfluxDB, by outcome",
            ["stream", "outcome"],
        )
        self.export_lag_reports = Gauge(
            "collector_export_lag_reports", "Reports that are not in InfluxDB yet", registry=None
        )
        self.export_lag_seconds = Gauge(
            "collector_export_lag_seconds",
            "Age of the oldest report that is not in InfluxDB yet",
            registry=None,
        )

    def _add_ledger(self, gauge: Callable[..., Gauge]) -> None:
        self.ledger_size_bytes = gauge("collector_ledger_size_bytes", "Size of the ledger")
        self.ledger_free_disk_bytes = gauge(
            "collector_ledger_free_disk_bytes", "Free bytes on the ledger's disk"
        )
        self.ledger_reports = gauge(
            "collector_ledger_reports",
            "Reports kept, for deduplication and until they are exported",
        )
        self.ledger_day_rows = gauge("collector_ledger_day_rows", "Daily sums kept")
        self.ledger_users = gauge("collector_ledger_users", "Users ever reported")
        self.ledger_servers = gauge("collector_ledger_servers", "Servers and ports ever reported")
        self.ledger_traffic_bytes = gauge(
            "collector_ledger_traffic_bytes", "All bytes ever counted, by direction", ["direction"]
        )
        self.ledger_billed_bytes = gauge(
            "collector_ledger_billed_bytes",
            "All bytes ever counted, as billed against quotas",
        )
        self.retention_seconds = gauge(
            "collector_retention_seconds",
            "How long points (raw, daily) and report ids (reports) are kept; 0 is for ever",
            ["policy"],
        )

    def note_heard(self, scope: str, *, at_seconds: float) -> None:
        """Note when a reporter with a key sent something; scopes without a key are ignored."""
        last_report = self._heard.get(scope)
        if last_report is None:
            kind, _, name = scope.partition(":")
            if kind != "reporter":
                return
            last_report = self._heard[scope] = self.reporter_last_report.labels(name)
        last_report.set(at_seconds)

    def note_contact(self, name: str, *, at_seconds: float) -> None:
        """Note when a reporter's key was accepted; an earlier time than before is ignored."""
        if at_seconds > self._in_contact.get(name, 0.0):
            self._in_contact[name] = at_seconds
            self.reporter_last_contact.labels(name).set(at_seconds)

    def forget_reporters(self, is_gone: Callable[[str], bool]) -> None:
        """Drop reporters whose key was revoked, so that no alert says they are silent."""
        for scope in list(self._heard):
            name = scope.partition(":")[2]
            if is_gone(name):
                del self._heard[scope]
                self.reporter_last_report.remove(name)
        for name in [each for each in self._in_contact if is_gone(each)]:
            del self._in_contact[name]
            self.reporter_last_contact.remove(name)

    def expose_leading(self) -> None:
        """Expose the metrics of a collector with a shared ledger (PostgreSQL)."""
        self.registry.register(self.leads)
        self.registry.unregister(self.ledger_free_disk_bytes)

    def expose_export(self) -> None:
        """Expose the metrics of the export; only for a collector with an InfluxDB."""
        for each in (
            self.influx_up,
            self.export_up,
            self.export_lag_reports,
            self.export_lag_seconds,
        ):
            self.registry.register(each)
        for stream in Policy:  # increase() does not see a counter that begins above zero
            self.export_dead_letters.labels(stream)
