"""The buckets are kept as they are set, also while the export runs, or it is said what to do."""

from __future__ import annotations

import logging

import pytest

from collector.influx.storage_watch import (
    CHECK_AGAIN_SECONDS,
    DRIFT_SECONDS,
    BucketStorage,
    StorageWatch,
)
from collector.schema import Policy
from tests.support.collector.fake_influx import FakeBuckets

RAW, DAILY = Policy.RAW, Policy.DAILY
DAY_SECONDS = 86_400
KEPT = {RAW: 30 * DAY_SECONDS, DAILY: 0}
AS_SET = {each.bucket: KEPT[each] for each in Policy}


class Stand:
    """A watch over buckets that can be changed behind its back, with a clock of its own."""

    def __init__(self) -> None:
        self.buckets = FakeBuckets()
        self.now_seconds = 1000.0
        self.watch = StorageWatch(
            BucketStorage(self.buckets, retention_seconds=KEPT),
            retention_seconds=KEPT,
            monotonic_seconds=lambda: self.now_seconds,
            log=logging.getLogger("test"),
        )

    def wait(self, seconds: float) -> None:
        """Let time pass, and check if that is due."""
        self.now_seconds += seconds
        if self.watch.is_due:
            self.watch.check()


@pytest.fixture
def stand():
    return Stand()


@pytest.fixture
def limited(stand):
    """As with a token of least privilege, after `bootstrap`."""
    stand.buckets.kept_seconds = dict(AS_SET)
    stand.buckets.is_forbidden = True
    stand.watch.check()
    return stand


def texts(caplog):
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


def test_missing_buckets_are_made_and_drift_is_corrected(stand, caplog):
    stand.buckets.kept_seconds[RAW.bucket] = 7
    stand.watch.check()
    assert stand.buckets.kept_seconds == AS_SET
    assert stand.buckets.is_mapped
    assert (stand.watch.problem, texts(caplog)) == (None, [])


def test_drift_while_it_runs_is_corrected(stand):
    stand.watch.check()
    stand.buckets.kept_seconds[RAW.bucket] = 7
    stand.wait(DRIFT_SECONDS - 1)
    assert stand.buckets.looks == 1
    stand.wait(1)
    assert stand.buckets.kept_seconds == AS_SET


def test_a_bucket_deleted_while_it_runs_is_made_anew_and_that_it_is_empty_is_said(stand, caplog):
    stand.watch.check()
    del stand.buckets.kept_seconds[DAILY.bucket]
    stand.watch.hasten()
    stand.wait(0)
    assert stand.buckets.kept_seconds == AS_SET
    (text,) = texts(caplog)
    assert "traffic/daily" in text
    assert "traffic-collector export rebuild" in text


def test_drift_that_the_token_may_not_correct_is_said_once_with_what_to_run(limited, caplog):
    limited.buckets.kept_seconds[RAW.bucket] = DAY_SECONDS
    for _ in range(3):
        limited.wait(DRIFT_SECONDS)
    (text,) = texts(caplog)
    assert text == limited.watch.problem
    assert "traffic/raw keeps points 1 d, it should be 30 d" in text
    assert "traffic-collector bootstrap" in text
    limited.buckets.kept_seconds[DAILY.bucket] = DAY_SECONDS
    limited.wait(CHECK_AGAIN_SECONDS)
    assert len(texts(caplog)) == 2, "another problem is another line"
    limited.buckets.kept_seconds = dict(AS_SET)
    limited.wait(CHECK_AGAIN_SECONDS)
    assert limited.watch.problem is None
    assert texts(caplog)[2:] == ["the buckets of InfluxDB are as they are set"]


@pytest.mark.parametrize("seen", [{}, {RAW.bucket: KEPT[RAW]}])
def test_a_bucket_that_a_token_does_not_see_is_no_problem_until_a_write_says_so(
    stand, caplog, seen
):
    stand.buckets.kept_seconds = seen
    stand.buckets.is_forbidden = True
    stand.watch.check()
    assert (stand.watch.problem, texts(caplog)) == (None, [])


def test_a_fault_of_one_bucket_does_not_keep_the_other_from_being_corrected(stand):
    refuse = stand.buckets.apply

    def apply(changes):
        stand.buckets.is_forbidden = changes[0].policy is RAW
        refuse(changes)

    stand.buckets.apply = apply
    stand.buckets.kept_seconds = {RAW.bucket: 7, DAILY.bucket: 7}
    stand.watch.check()
    assert stand.buckets.kept_seconds == {RAW.bucket: 7, DAILY.bucket: 0}
    assert "traffic/raw" in stand.watch.problem
    assert "traffic/daily" not in stand.watch.problem


def test_points_are_kept_for_no_longer_than_the_bucket_keeps_them(limited):
    assert [limited.watch.kept_seconds(each) for each in Policy] == [30 * DAY_SECONDS, 0]
    limited.buckets.kept_seconds = {RAW.bucket: DAY_SECONDS, DAILY.bucket: 7 * DAY_SECONDS}
    limited.wait(DRIFT_SECONDS)
    kept = [limited.watch.kept_seconds(each) for each in Policy]
    assert kept == [DAY_SECONDS, 7 * DAY_SECONDS]
    limited.buckets.kept_seconds[RAW.bucket] = 0
    limited.wait(CHECK_AGAIN_SECONDS)
    assert limited.watch.kept_seconds(RAW) == 30 * DAY_SECONDS


def test_while_influxdb_is_away_nothing_is_said_of_its_buckets(stand, caplog):
    stand.buckets.is_down = True
    assert stand.watch.check() is False
    assert (stand.watch.problem, texts(caplog), stand.watch.is_due) == (None, [], True)


def test_a_defect_is_a_problem_with_one_traceback(stand, caplog):
    stand.buckets.defect = ZeroDivisionError("a defect")
    for _ in range(3):
        stand.wait(CHECK_AGAIN_SECONDS)
    (record,) = caplog.records
    assert record.exc_info
    assert "ZeroDivisionError" in stand.watch.problem
