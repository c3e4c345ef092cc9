"""The agent's Prometheus metrics, read from the state at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from collector.agent.state.state import SourceStatus, State


class AgentMetrics(Collector):
    """Collects the backlog, its age, and the status of each source and lane.

    `sent` returns what each lane has delivered since the start, `failing` the lanes that have a
    problem now.
    """

    def __init__(
        self,
        state: State,
        *,
        sent: Callable[[], Mapping[str, int]],
        failing: Callable[[], Collection[str]],
        now: Callable[[], datetime],
    ) -> None:
        self._state = state
        self._sent = sent
        self._failing = failing
        self._now = now
        self.posts: Callable[[], Mapping[tuple[str, str], int]] = dict
        """Returns the number of posts to the relay since the start, by route and outcome."""

    def registry(self) -> CollectorRegistry:
        """Return a registry with only these metrics."""
        registry = CollectorRegistry()
        registry.register(self)
        return registry

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of this moment."""
        backlog = self._state.spool.backlog()
        oldest_seconds = 0.0
        if backlog.oldest_at is not None:
            oldest_seconds = max(0.0, (self._now() - backlog.oldest_at).total_seconds())
        yield _gauge("agent_spool_items", "Reports and posts that wait to be sent", backlog.items)
        yield _gauge("agent_spool_bytes", "Size of what waits to be sent", backlog.size_bytes)
        yield _gauge(
            "agent_spool_oldest_age_seconds", "Age of the oldest item unsent", oldest_seconds
        )
        aside = CounterMetricFamily(
            "agent_set_aside", "Reports and posts that the collector refused for good: dead letters"
        )
        aside.add_metric([], backlog.set_aside_total)
        yield aside
        sent = CounterMetricFamily(
            "agent_sent", "Reports delivered since the start, by lane of the spool", labels=["lane"]
        )
        failing = GaugeMetricFamily(
            "agent_delivery_up",
            "Whether the last attempt to send this lane's items succeeded (1) or not (0)",
            labels=["lane"],
        )
        problems = {*self._state.delivery_problems(), *self._failing()}
        for lane, count in self._sent().items():
            sent.add_metric([lane], count)
            failing.add_metric([lane], float(lane not in problems))
        yield sent
        yield failing
        posts = CounterMetricFamily(
            "agent_relay_posts", "Posts to the relay, by outcome", labels=["route", "outcome"]
        )
        for (route, outcome), count in self.posts().items():
            posts.add_metric([route, outcome], count)
        yield posts
        yield from _sources(self._state.statuses())


def _sources(statuses: list[SourceStatus]) -> Iterator[Metric]:
    labels = ["source"]
    up = GaugeMetricFamily(
        "agent_source_up", "Whether the last poll succeeded (1) or not (0)", labels=labels
    )
    read_at = GaugeMetricFamily(
        "agent_source_last_read_timestamp_seconds",
        "When the source was last polled successfully",
        labels=labels,
    )
    counters = GaugeMetricFamily(
        "agent_source_counters", "Counters in the last sample", labels=labels
    )
    unmapped = GaugeMetricFamily(
        "agent_source_unmapped_names", "Names in the last sample that match no user", labels=labels
    )
    skipped = GaugeMetricFamily(
        "agent_source_skipped_rows",
        "Rows of the last sample that could not be parsed",
        labels=labels,
    )
    fallen = GaugeMetricFamily(
        "agent_source_fallen_counters",
        "Counters of the last sample that are lower than before, though the source was not "
        "restarted",
        labels=labels,
    )
    aside = CounterMetricFamily(
        "agent_source_set_aside_messages",
        "Messages of a stream that could not be decoded, and are not counted",
        labels=labels,
    )
    reports = CounterMetricFamily(
        "agent_source_reports", "Reports made from the source's traffic", labels=labels
    )
    restarts = CounterMetricFamily(
        "agent_source_restarts",
        "Restarts of the source, resets of single counters, and gaps of a stream",
        labels=labels,
    )
    for each in statuses:
        up.add_metric([each.name], float(each.problem is None))
        if each.read_at is not None:
            read_at.add_metric([each.name], each.read_at.timestamp())
        counters.add_metric([each.name], each.counters)
        unmapped.add_metric([each.name], each.unmapped)
        skipped.add_metric([each.name], each.skipped)
        fallen.add_metric([each.name], each.fallen)
        aside.add_metric([each.name], each.set_aside_total)
        reports.add_metric([each.name], each.reports_total)
        restarts.add_metric([each.name], each.restarts_total)
    yield from (up, read_at, counters, unmapped, skipped, fallen, aside, reports, restarts)


def _gauge(name: str, description: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, description, value=value)
