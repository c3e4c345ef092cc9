"""What the InfluxDB adapter promises, on whichever real engine is there."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from collector.errors import InfluxRefusedError, InfluxUnavailableError
from collector.influx.buckets import BucketChange, Buckets, plan_buckets
from collector.influx.client import Influx
from collector.influx.delivery import Delivered, deliver
from collector.influx.lines import to_line
from collector.influx.outcome import Halt, Retry, Split, Stored
from collector.influx.tokens import GRANTS, TOKEN_FILE, issue_tokens
from collector.schema import Policy

RAW, DAILY = Policy.RAW.bucket, Policy.DAILY.bucket
DAY_SECONDS = 86_400
NOW = time.time_ns()
COUNT = 'SELECT count("n") AS n FROM "raw"."m"'

NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Cn"], exclude_characters="\u2028\u2029"),
    min_size=1,
    max_size=40,
).filter(lambda name: not name.endswith("\\"))
HOSTILE = (
    "de 1",
    "a,b=c d",
    'say "hi"',
    "o'neil; DROP DATABASE traffic",
    "back\\slash\\ in, the= middle",
    "сервер-3 🚀",
    "👩‍👩‍👧‍👦",
    "\u202ertl",
    " leading and trailing ",
    "#not a comment",
    "x" * 255,
)


@pytest.fixture
def writer(influx):
    with closing(Influx(influx.access())) as opened:
        yield opened


def point(n: int = 1, *, at: int = NOW, **tags: str) -> str:
    return to_line("m", {"t": "a", **tags}, {"n": n}, at)


def count(influx) -> int:
    return sum(row["n"] for row in influx.query(COUNT))


def test_a_written_point_can_be_read(influx, writer):
    assert writer.write(RAW, [point(5, user="alice")]) == Stored()
    rows = influx.query('SELECT "n" FROM "raw"."m" GROUP BY *')
    assert rows == [{"t": "a", "user": "alice", "time": NOW, "n": 5}]


def test_buckets_are_retention_policies_of_one_database(influx, writer):
    writer.write(RAW, [point(1)])
    writer.write(DAILY, [point(2)])
    assert influx.query('SELECT "n" FROM "daily"."m"') == [{"time": NOW, "n": 2}]
    assert influx.query('SELECT "n" FROM "m"') == [{"time": NOW, "n": 1}], "raw is the default"
    assert influx.query('SHOW TAG VALUES FROM "m" WITH KEY = "t"') == [{"key": "t", "value": "a"}]


def test_the_same_point_again_changes_nothing_and_another_value_replaces_it(influx, writer):
    for n in (1, 1, 7):
        writer.write(RAW, [point(n)])
    assert influx.query('SELECT "n" FROM "raw"."m"') == [{"time": NOW, "n": 7}]


@settings(
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(names=st.lists(NAMES, min_size=1, max_size=30, unique=True))
@example(names=list(HOSTILE))
def test_every_name_that_has_a_spelling_comes_back_unchanged(influx_server, names):
    influx_server.start()
    influx_server.query('DROP MEASUREMENT "names"')
    lines = [
        to_line("names", {"user": name, "server": name}, {"text": name, "n": n}, NOW)
        for n, name in enumerate(names)
    ]
    with closing(Influx(influx_server.access())) as writer:
        assert writer.write(RAW, lines) == Stored()
    rows = influx_server.query('SELECT "text", "n" FROM "raw"."names" GROUP BY *')
    found = {row["n"]: (row["user"], row["server"], row["text"]) for row in rows}
    assert found == {n: (name, name, name) for n, name in enumerate(names)}


def test_text_with_line_breaks_comes_back_from_a_field(influx, writer):
    text = 'one\ntwo "three"\\ \r\n\tfour'
    assert writer.write(RAW, [to_line("m", {"t": "a"}, {"text": text}, NOW)]) == Stored()
    assert influx.query('SELECT "text" FROM "raw"."m"')[0]["text"] == text


def test_large_whole_numbers_stay_exact(influx, writer):
    writer.write(RAW, [point(2**62 - 1)])
    assert influx.query('SELECT "n" FROM "raw"."m"')[0]["n"] == 2**62 - 1


def test_a_malformed_line_is_found_among_many_and_the_rest_is_stored(influx, writer):
    lines = [point(n, at=NOW + n) for n in range(100)]
    lines[37] = "this is no line"
    result = deliver(lines, lambda batch: writer.write(RAW, batch))
    assert isinstance(result, Delivered)
    assert [each.line for each in result.refused] == ["this is no line"]
    assert "unable to parse" in result.refused[0].reason
    assert count(influx) == 99


def test_a_field_of_another_type_is_refused_and_the_rest_is_stored(influx, writer):
    writer.write(RAW, [point(1)])
    conflicting = to_line("m", {"t": "a"}, {"n": 1.5}, NOW + 1)
    result = deliver([point(2, at=NOW + 2), conflicting], lambda each: writer.write(RAW, each))
    assert isinstance(result, Delivered)
    assert [each.line for each in result.refused] == [conflicting]
    assert "field type conflict" in result.refused[0].reason
    assert count(influx) == 2


def test_points_older_than_the_retention_are_dropped_together(influx, influx_server):
    influx_server.reset({Policy.RAW: 30 * DAY_SECONDS, Policy.DAILY: 0})
    with closing(Influx(influx.access())) as writer:
        old = [point(n, at=NOW - 31 * DAY_SECONDS * 10**9 + n) for n in range(2)]
        assert writer.write(RAW, old).is_expired
        assert isinstance(writer.write(RAW, [*old, point()]), Split)
        assert writer.write(DAILY, old) == Stored()
    assert count(influx) == 1


@pytest.mark.parametrize(
    ("changes", "bucket", "hint"),
    [
        ({"token": "nobody's"}, RAW, "INFLUXDB_TOKEN"),
        ({"org": "strangers"}, RAW, "INFLUXDB_ORG"),
        ({}, "traffic/missing", "traffic-collector bootstrap"),
    ],
)
def test_what_the_operator_must_mend_halts_and_says_what(influx, changes, bucket, hint):
    with closing(Influx(influx.access(**changes))) as writer:
        outcome = writer.write(bucket, [point()])
    assert isinstance(outcome, Halt)
    assert hint in outcome.reason


def test_an_engine_that_is_away_is_worth_another_try_and_forgets_nothing(influx, writer):
    assert writer.write(RAW, [point(1)]) == Stored()
    influx.stop()
    assert isinstance(writer.write(RAW, [point(2, at=NOW + 1)]), Retry)
    with pytest.raises(InfluxUnavailableError):
        Buckets(influx.access()).current_seconds()
    influx.start()
    assert writer.write(RAW, [point(2, at=NOW + 1)]) == Stored()
    assert count(influx) == 2


def test_deleting_what_is_old_keeps_what_is_new(influx, writer):
    old = NOW - 10 * DAY_SECONDS * 10**9
    writer.write(RAW, [point(1, at=old), point(2)])
    writer.delete_before(RAW, datetime.now(UTC) - timedelta(days=5))
    assert influx.query('SELECT "n" FROM "raw"."m"') == [{"time": NOW, "n": 2}]
    with pytest.raises(InfluxRefusedError):
        writer.delete_before("traffic/missing", datetime.now(UTC))


@pytest.mark.parametrize(("raw_days", "daily_days"), [(30, 0), (1, 1), (400, 3650), (1, 0), (0, 1)])
def test_retention_is_corrected_in_either_direction_and_then_there_is_no_drift(
    influx_server, raw_days, daily_days
):
    influx_server.start()
    buckets = Buckets(influx_server.access())
    desired = {Policy.RAW: raw_days * DAY_SECONDS, Policy.DAILY: daily_days * DAY_SECONDS}
    buckets.apply(plan_buckets(desired, buckets.current_seconds()))
    assert plan_buckets(desired, buckets.current_seconds()) == []


def test_the_default_policy_is_mapped_once(influx):
    assert Buckets(influx.access()).map_default() is False


def test_every_program_gets_a_token_that_may_do_its_work_and_no_more(influx, tmp_path):
    assert issue_tokens(influx.access(), tmp_path) == ["collector", "bridge", "grafana"]
    may: dict[str, set[str]] = {}
    for grant in GRANTS:
        path = tmp_path / grant.program / TOKEN_FILE
        assert path.stat().st_mode & 0o777 == grant.file_mode
        access = replace(influx.access(), token="", token_file=path)
        with closing(Influx(access)) as writer:
            may[grant.program] = {
                bucket for bucket in (RAW, DAILY) if writer.write(bucket, [point()]) == Stored()
            }
        with pytest.raises(InfluxRefusedError, match="organization"):
            Buckets(access).map_default()
    assert may == {"collector": {RAW, DAILY}, "bridge": {RAW}, "grafana": set()}
    shorter = BucketChange(Policy.RAW, from_seconds=0, to_seconds=7 * DAY_SECONDS)
    with pytest.raises(InfluxRefusedError):
        Buckets(access).apply([shorter])
    assert Buckets(influx.access()).current_seconds()[RAW] == 0


def test_a_token_of_least_privilege_cannot_make_a_bucket_and_a_write_says_it_is_missing(
    influx, tmp_path
):
    issue_tokens(influx.access(), tmp_path)
    limited = replace(influx.access(), token="", token_file=tmp_path / "collector" / TOKEN_FILE)
    influx.delete_bucket(DAILY)
    assert Buckets(limited).current_seconds() == {RAW: 0}
    missing = BucketChange(Policy.DAILY, from_seconds=None, to_seconds=0)
    with pytest.raises(InfluxRefusedError, match="organization"):
        Buckets(limited).apply([missing])
    with closing(Influx(limited)) as writer:
        assert writer.write(RAW, [point()]) == Stored()
        outcome = writer.write(DAILY, [point()])
        assert isinstance(outcome, Halt)
        assert 'bucket "traffic/daily" not found' in outcome.reason.replace("\\", "")
        Buckets(influx.access()).apply([missing])
        anew = writer.write(DAILY, [point()])
        assert isinstance(anew, Halt)
        assert "403" in anew.reason
    assert issue_tokens(influx.access(), tmp_path) == ["collector", "grafana"]
    with closing(Influx(limited)) as writer:
        assert writer.write(DAILY, [point()]) == Stored()


def test_tokens_that_work_are_kept_and_others_replaced(influx, tmp_path):
    issue_tokens(influx.access(), tmp_path)
    kept = {grant.program: (tmp_path / grant.program / TOKEN_FILE).read_text() for grant in GRANTS}
    (tmp_path / "bridge" / TOKEN_FILE).write_text("damaged")
    (tmp_path / "grafana" / TOKEN_FILE).unlink()
    assert issue_tokens(influx.access(), tmp_path) == ["bridge", "grafana"]
    assert issue_tokens(influx.access(), tmp_path) == []
    assert (tmp_path / "collector" / TOKEN_FILE).read_text() == kept["collector"]
    revoked = replace(influx.access(), token=kept["bridge"].strip())
    with closing(Influx(revoked)) as writer:
        assert isinstance(writer.write(RAW, [point()]), Halt), "the predecessor is revoked"
