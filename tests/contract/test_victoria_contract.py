"""What a VictoriaMetrics does with what it is given, on the real one where it is installed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from collector.errors import InfluxRefusedError
from collector.influx.client import Influx
from collector.influx.kinds import TargetKind
from collector.influx.lines import to_line
from collector.influx.outcome import Halt, Retry, Stored
from collector.influx.points import sample_page
from collector.influx.victoria import VictoriaStorage
from collector.ledger import ReportRow
from collector.schema import Policy
from tests.contract.test_influx_contract import HOSTILE
from tests.support.engines import victoria_engine
from tests.support.engines.victoria_engine import VictoriaEngine

pytestmark = pytest.mark.skipif(
    not victoria_engine.is_here(), reason="no victoria-metrics on the PATH"
)
RAW = Policy.RAW.bucket
NOW_MILLIS = time.time_ns() // 10**6
DAY_SECONDS = 86_400


@pytest.fixture(scope="module")
def victoria(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VictoriaEngine]:
    with closing(VictoriaEngine(tmp_path_factory.mktemp("victoria"))) as engine:
        yield engine


@pytest.fixture
def writer(victoria):
    with closing(Influx(victoria.access())) as opened:
        yield opened


def row(seq, *, user, upload=1, server="de-1", voids=None, at=NOW_MILLIS):
    return ReportRow(seq, user, server, 443, "vless", upload, 0, upload, 1, at, voids)


def lines(*rows):
    return sample_page(rows, oldest_millis=0).lines


def test_reports_of_one_moment_are_all_there_and_written_again_they_are_once(victoria, writer):
    rows = [row(seq, user="once", upload=seq) for seq in range(1, 998)]
    for _ in range(3):
        assert writer.write(RAW, lines(*rows)) == Stored()
    assert victoria.sums('traffic_upload_bytes{user="once"}') == (997, 497_503)
    assert victoria.sums('traffic_connections{user="once"}') == (997, 997)


def test_a_report_taken_back_is_taken_out_of_the_sum(victoria, writer):
    rows = [row(1, user="void", upload=5), row(2, user="void", upload=7)]
    writer.write(RAW, lines(*rows, row(3, user="void", upload=-5, voids=1)))
    assert victoria.sums('traffic_upload_bytes{user="void"}') == (3, 7)


def test_every_name_comes_back_unchanged(victoria, writer):
    rows = [row(n, user="names", server=name) for n, name in enumerate(HOSTILE, start=1)]
    assert writer.write(RAW, lines(*rows)) == Stored()
    found = {
        labels["server"] for labels, _ in victoria.samples('traffic_upload_bytes{user="names"}')
    }
    assert found == set(HOSTILE)
    assert all(
        labels["db"] == RAW for labels, _ in victoria.samples('traffic_upload_bytes{user="names"}')
    )


def test_texts_make_no_series_and_events_none_at_all(victoria, writer):
    nanos = NOW_MILLIS * 10**6
    usage = to_line("user_usage", {"user": "t"}, {"status": "active", "quota_bytes": 5}, nanos)
    event = to_line("events", {"user": "t"}, {"title": "reset"}, nanos)
    assert writer.write(RAW, [usage, event]) == Stored()
    assert writer.write(RAW, [event]) == Stored()
    names = {labels["__name__"] for labels, _ in victoria.samples('{user="t"}')}
    assert names == {"user_usage_quota_bytes"}


def test_the_flags_that_it_was_started_with_are_seen(victoria, tmp_path):
    checked = VictoriaStorage(victoria.access(), 30 * DAY_SECONDS).check()
    assert (checked.kept_seconds[Policy.RAW], checked.problem) == (36_500 * DAY_SECONDS, None)
    (tmp_path / "data").mkdir()
    with closing(VictoriaEngine(tmp_path / "data", flags=("-retentionPeriod=2d",))) as other:
        checked = VictoriaStorage(other.access(), 30 * DAY_SECONDS).check()
        assert checked.kept_seconds == {Policy.RAW: 2 * DAY_SECONDS}
        assert "-retentionPeriod=30d" in checked.problem
        assert "-dedup.minScrapeInterval=1ms" in checked.problem


def test_what_is_set_as_an_influxdb_is_said_to_be_a_victoriametrics(victoria):
    access = replace(victoria.access(), kind=TargetKind.INFLUXDB, token="t")
    with closing(Influx(access)) as influx:
        outcome = influx.write(RAW, [])
    assert isinstance(outcome, Halt)
    assert "INFLUXDB_KIND=victoriametrics" in outcome.reason


def test_points_are_not_deleted_and_it_is_said_why(writer):
    with pytest.raises(InfluxRefusedError, match="-retentionPeriod"):
        writer.delete_before(RAW, datetime(2026, 1, 1, tzinfo=UTC))


def test_one_that_is_away_is_worth_another_try(tmp_path):
    (tmp_path / "data").mkdir()
    with (
        closing(VictoriaEngine(tmp_path / "data")) as engine,
        closing(Influx(engine.access())) as writer,
    ):
        engine.stop()
        assert isinstance(writer.write(RAW, lines(row(1, user="a"))), Retry)
        engine.start()
        assert writer.write(RAW, lines(row(1, user="a"))) == Stored()
        assert engine.sums("traffic_upload_bytes") == (1, 1)
