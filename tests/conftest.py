"""What all tests share: the engines they run on, and an environment without ours."""

from __future__ import annotations

from collections.abc import Iterator

import influx_engine
import pytest
from influx_engine import InfluxEngine


def pytest_report_header() -> str:
    return f"InfluxDB: {influx_engine.describe() or 'none here, its tests are skipped'}"


@pytest.fixture(scope="session")
def influx_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfluxEngine]:
    """One InfluxDB for the session."""
    if influx_engine.describe() is None:
        pytest.skip("neither a Docker engine nor an influxd on the PATH")
    engine = InfluxEngine(tmp_path_factory.mktemp("influxd"))
    yield engine
    engine.close()


@pytest.fixture
def influx(influx_server: InfluxEngine) -> InfluxEngine:
    """An InfluxDB that runs and whose buckets are empty."""
    influx_server.start()
    influx_server.reset()
    return influx_server
