"""What an answer to a write means, as a table."""

from __future__ import annotations

import pytest

from collector.influx.kinds import TargetKind
from collector.influx.outcome import (
    MAX_REASON_LENGTH,
    Drop,
    Halt,
    Retry,
    Split,
    Stored,
    decide,
    other_kind,
)

MALFORMED = '{"code":"invalid","message":"unable to parse \'x\': missing fields"}'
PARTIAL = '{"code":"unprocessable entity","message":"partial write: type conflict dropped=3"}'

# 3.x stores the other lines and says which it did not (`influxdb3_server/src/http.rs`, 3.10)
PARTIAL_3 = (
    '{"error":"partial write of line protocol occurred","data":[{"original_line":"traffic,us",'
    '"line_number":3,"error_message":"invalid column type"}]}'
)


@pytest.mark.parametrize(
    ("status", "message", "lines", "kind"),
    [
        (204, "", 10, Stored),
        (200, "<html>welcome</html>", 10, Halt),  # a proxy's page is no receipt
        (302, "", 10, Halt),
        (400, MALFORMED, 10, Split),
        (400, MALFORMED, 1, Drop),
        (400, PARTIAL, 10, Split),  # 1.x answers 400 where 2.x answers 422
        (422, PARTIAL, 10, Split),
        (422, PARTIAL, 4, Split),
        (422, PARTIAL, 3, Drop),  # all of them
        (422, PARTIAL, 1, Drop),
        (400, PARTIAL_3, 10, Split),
        (400, PARTIAL_3, 1, Drop),
        (401, "", 10, Halt),
        (403, "", 10, Halt),
        (404, "", 10, Halt),
        (405, "", 10, Halt),
        (413, "", 10, Split),
        (413, "", 1, Drop),
        (429, "", 10, Retry),
        (500, "", 10, Retry),
        (502, "", 10, Retry),
        (503, "", 10, Retry),
        (504, "", 10, Retry),
    ],
)
def test_each_status_leads_to_one_thing_to_do(status, message, lines, kind):
    assert type(decide(status, message, lines=lines)) is kind


@pytest.mark.parametrize(
    ("reason", "is_expired"),
    [
        (
            "dropped 2 points outside retention policy of duration 24h0m0s - oldest … dropped=2",
            True,
        ),
        ("points beyond retention policy dropped=2", True),
        ("field type conflict: input field dropped=2", False),
    ],
)
def test_lines_that_the_bucket_would_not_keep_are_told_from_bad_ones(reason, is_expired):
    message = f"partial write: {reason} for database: 0a1b for retention policy: autogen"
    outcome = decide(422, message, lines=2)
    assert isinstance(outcome, Drop)
    assert outcome.is_expired is is_expired


@pytest.mark.parametrize(
    ("asked", "heeded"), [(None, None), (0.0, 0.0), (60.0, 60.0), (86_400.0, 900.0)]
)
def test_a_busy_server_says_when_to_come_again_and_not_tomorrow(asked, heeded):
    assert decide(429, "", lines=1, retry_after_seconds=asked) == Retry("429", heeded)


@pytest.mark.parametrize(
    ("status", "said", "hint"),
    [
        (401, "what the server said", "INFLUXDB_TOKEN"),
        (403, "what the server said", "INFLUXDB_TOKEN"),
        (404, '{"code":"not found","message":"bucket not found"}', "traffic-collector bootstrap"),
        (404, '{"error":"database not found"}', "traffic-collector bootstrap"),
        (404, "404 page not found", "INFLUXDB_URL"),
        (404, "<html>Not Found</html>", "INFLUXDB_URL"),
        (200, "what the server said", "INFLUXDB_URL"),
    ],
)
def test_a_halt_says_what_to_mend(status, said, hint):
    outcome = decide(status, said, lines=1)
    assert isinstance(outcome, Halt)
    assert hint in outcome.reason
    assert said in outcome.reason


def test_a_reason_is_one_line_of_bounded_length():
    reason = decide(500, "a\n b\t" + "x" * 10_000, lines=1).reason
    assert reason.startswith("500 a b x")
    assert len(reason) == MAX_REASON_LENGTH


LIMIT_3 = '{"error":"Adding a new database would exceed limit of 5 databases","data":null}'
NO_ROUTE = 'requestURI: /api/v2/write; unsupported path requested: "/api/v2/write"'
NO_LINE = "cannot process influx line protocol data: cannot unmarshal InfluxDB line"


@pytest.mark.parametrize(
    ("kind", "status", "message", "lines", "outcome"),
    [
        (TargetKind.INFLUXDB3, 422, LIMIT_3, 1, Halt),  # a line is no fault of a limit
        (TargetKind.INFLUXDB3, 400, PARTIAL_3, 10, Split),
        (TargetKind.INFLUXDB3, 400, PARTIAL_3, 1, Drop),
        (TargetKind.VICTORIAMETRICS, 204, "", 10, Stored),
        (TargetKind.VICTORIAMETRICS, 400, NO_LINE, 10, Split),
        (TargetKind.VICTORIAMETRICS, 400, NO_LINE, 1, Drop),
        (TargetKind.VICTORIAMETRICS, 400, NO_ROUTE, 10, Halt),
        (TargetKind.VICTORIAMETRICS, 503, "read-only", 10, Retry),
        (TargetKind.INFLUXDB, 400, NO_ROUTE, 1, Halt),
    ],
)
def test_what_an_answer_means_follows_from_the_kind_too(kind, status, message, lines, outcome):
    assert type(decide(status, message, lines=lines, kind=kind)) is outcome


@pytest.mark.parametrize(
    ("kind", "headers", "told"),
    [
        (
            TargetKind.INFLUXDB,
            {"x-server-hostname": "h", "x-influxdb-version": "1.8.0"},
            "Victoria",
        ),
        (TargetKind.INFLUXDB, {"x-influxdb-build": "OSS", "x-influxdb-version": "v2.9.1"}, None),
        (TargetKind.INFLUXDB, {}, None),
        (TargetKind.VICTORIAMETRICS, {"x-influxdb-build": "OSS"}, "INFLUXDB_KIND=influxdb"),
        (TargetKind.VICTORIAMETRICS, {"x-server-hostname": "h"}, None),
        (TargetKind.VICTORIAMETRICS, {}, None),  # a proxy may take it away
    ],
)
def test_another_kind_than_the_set_one_is_known_by_its_headers(kind, headers, told):
    found = other_kind(kind, headers)
    assert (found is None) if told is None else (told in found)
