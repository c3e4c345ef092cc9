"""The flags that a VictoriaMetrics has to have are asked for, with what to start it with."""

from __future__ import annotations

import pytest

from collector.influx.victoria import DAY_SECONDS, judge, period_seconds
from collector.schema import Policy

RIGHT = {"retentionPeriod": "30d", "dedup.minScrapeInterval": "1ms"}
RAW_SECONDS = 30 * DAY_SECONDS


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1", 31 * DAY_SECONDS),
        ("30d", 30 * DAY_SECONDS),
        ("2w", 14 * DAY_SECONDS),
        ("1y", 365 * DAY_SECONDS),
        ("1ms", 0.001),
        ("0s", 0),
        ("1m30s", 90),
        ("", 0),
        ("soon", 0),
    ],
)
def test_a_duration_is_read_as_victoriametrics_writes_it(text, seconds):
    assert period_seconds(text) == seconds


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({}, None),
        ({"retentionPeriod": "1y"}, None),
        ({"retentionPeriod": "1d"}, "-retentionPeriod=30d"),
        ({"dedup.minScrapeInterval": "0s"}, "-dedup.minScrapeInterval=1ms"),
        ({"dedup.minScrapeInterval": "30s"}, "drops all but one of the reports of 30s"),
    ],
)
def test_a_flag_that_harms_is_named_with_what_it_should_be(flags, told):
    problem = judge(RIGHT | flags, raw_seconds=RAW_SECONDS).problem
    assert (problem is None) if told is None else (told in problem)


def test_what_it_drops_by_itself_is_known():
    kept = judge(RIGHT | {"retentionPeriod": "1d"}, raw_seconds=RAW_SECONDS).kept_seconds
    assert kept == {Policy.RAW: DAY_SECONDS}


def test_a_cluster_says_nothing_of_its_storage_and_so_do_we():
    assert judge({}, raw_seconds=RAW_SECONDS) == ({}, None)
