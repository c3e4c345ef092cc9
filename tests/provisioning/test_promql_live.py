"""Every PromQL query of dashboards and alerts, on a real Prometheus that scrapes both programs."""

from __future__ import annotations

import shutil

import pytest

from tests.support.engines.prometheus_engine import MetricsServer, PrometheusEngine, WorkedPrograms
from tests.support.grafana.grafana_files import PROMETHEUS, all_queries
from tests.support.grafana.grafana_interpolation import TimeRange, interpolate
from tests.support.processes import until
from tests.support.rows import for_each

QUERIES = [each for each in all_queries() if each.datasource == PROMETHEUS and each.is_about_time]
SIX_HOURS = TimeRange(0, 6 * 3_600_000)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """A Prometheus that has seen both programs at work."""
    if shutil.which("prometheus") is None:
        pytest.skip("no prometheus on the PATH (Debian: apt install prometheus)")
    programs = WorkedPrograms()
    server = MetricsServer(programs)
    engine = PrometheusEngine(tmp_path_factory.mktemp("prometheus"), server.targets)

    def has_seen_work():
        programs.work()
        seen = engine.query("count_over_time(up[1m]) >= 4")
        return len(seen) == len(server.targets)

    try:
        until("both programs were scraped a few times", has_seen_work)
        yield engine
    finally:
        engine.close()
        server.close()


@for_each("query", QUERIES)
def test_every_query_finds_something(prometheus, query):
    assert prometheus.query(interpolate(query.text, SIX_HOURS, {}, step="15s"))


def test_the_bridges_address_is_found_for_the_links_to_its_pages(prometheus):
    [found] = prometheus.query("bridge_info")
    assert found["metric"]["public_url"] == "https://bridge.example.com"


@pytest.mark.parametrize(
    ("uid", "value"),
    [
        ("bridge-down", 1),
        ("panel-unreachable", 1),
        ("influxdb-unreachable", 0),
        ("held-users", 0),
        ("panel-in-doubt", 0),
    ],
)
def test_a_healthy_stack_gives_quiet_alerts(prometheus, uid, value):
    [query] = [each for each in QUERIES if each.place.startswith(f"alert {uid} ")]
    [found] = prometheus.query(interpolate(query.text, SIX_HOURS, {}, step="15s"))
    assert float(found["value"][1]) == value
