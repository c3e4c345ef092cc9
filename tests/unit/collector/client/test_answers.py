"""What a collector's answer means for the reports in a request, and how long to wait after it."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.client.answers import (
    Again,
    Denied,
    Fault,
    Taken,
    Unfit,
    judge_reports,
    judge_request,
)
from collector.client.sending.delivery import DEFAULT_BATCH_REPORTS, MOST_REPORTS_WITHOUT_KEY
from collector.client.target import Target
from collector.runtime.http.answer_mark import HEADER, VALUE, is_of_another_request, mark_of
from collector.runtime.pace import LONGEST_RETRY_AFTER_SECONDS, Pace

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


MARKED = {HEADER: VALUE}


def judge(status, body=b"", *, count=3, headers=None):
    """Decide about an answer of a collector, unless `headers` say otherwise."""
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    headers = MARKED if headers is None else headers
    return judge_reports(status, headers, body, count=count, now=NOW)


def error(index, field="server", reason="is too long"):
    return {"index": index, "field": field, "reason": reason}


def test_a_receipt_takes_all_but_the_reports_it_names():
    receipt = {"accepted": 1, "duplicates": 1, "ignored": 0, "rejected": [error(2)]}
    assert judge(200, receipt) == Taken(1, 1, 0, (Fault(2, "server", "is too long"),))


def test_a_collector_of_an_older_version_may_leave_counts_out():
    assert judge(200, {"accepted": 3}) == Taken(accepted=3)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Welcome to the hotel</html>",
        b"[]",
        b'{"status":"success"}',
        b'{"accepted":true}',
        b'{"accepted":"3"}',
        b'{"accepted":2}',
        b'{"accepted":3,"rejected":[{"index":0}]}',
        b'{"accepted":2,"rejected":[{"index":7}]}',
    ],
)
def test_a_success_that_does_not_account_for_every_report_is_no_receipt(body):
    assert isinstance(judge(200, body), Again)


def test_if_none_is_valid_each_is_set_aside_with_its_reason():
    verdict = judge(422, {"detail": "no report is valid", "errors": [error(n) for n in range(3)]})
    assert verdict == Taken(faults=tuple(Fault(n, "server", "is too long") for n in range(3)))


def test_a_refusal_that_does_not_name_every_report_blames_the_request():
    assert isinstance(judge(422, {"detail": "beyond capacity", "errors": [error(0)]}), Unfit)
    assert isinstance(judge(422, b"?"), Unfit)


@pytest.mark.parametrize("status", [400, 413])
def test_what_cannot_be_read_blames_the_request(status):
    assert isinstance(judge(status), Unfit)


PAGE = b"<html><h1>400 Bad Request</h1>The plain HTTP request was sent to HTTPS port</html>"


@pytest.mark.parametrize("status", [200, 201, 204, 400, 401, 413, 422])
@pytest.mark.parametrize(
    "body",
    [
        PAGE,
        b"",
        b"{}",
        b"ok",
        b'{"status": "success"}',
        b'{"detail": "Bad Request"}',
        b'{"detail": [{"loc": ["body"], "msg": "field required"}]}',  # another FastAPI program
        b'{"errors": []}',
        b'{"accepted": true}',
    ],
)
def test_what_another_program_answers_is_no_verdict(status, body):
    """50 of 50 reports were set aside behind a TLS port's 400, 20 of 20 lost behind a page's 200."""
    headers = {"content-type": "text/html; charset=utf-8"}
    for verdict in (
        judge(status, body, headers=headers),
        judge_request(status, headers, body, now=NOW),
    ):
        assert isinstance(verdict, Again), verdict
        assert verdict.reason == f"is not reached: something else answers {status} with text/html"


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, {"accepted": 3, "duplicates": 0, "ignored": 0, "rejected": []}, Taken(accepted=3)),
        (
            401,
            {"detail": "this key is not valid", "errors": []},
            Denied("answers 401: this key is not valid"),
        ),
        (400, {"detail": "not JSON", "errors": []}, Unfit("answers 400: not JSON")),
        (413, {"detail": "too large", "errors": []}, Unfit("answers 413: too large")),
        (422, {"detail": "full", "errors": []}, Unfit("answers 422: full")),
    ],
)
def test_a_collector_of_before_the_mark_is_known_by_its_fields(status, body, expected):
    assert judge(status, body, headers={}) == expected


def test_the_mark_is_found_in_headers_of_either_case():
    assert judge(400, headers=httpx.Headers({"Traffic-Collector": "1"})) == Unfit("answers 400")


def test_an_unknown_key_is_told_apart():
    verdict = judge(401, {"detail": "this reporter key is not valid"})
    assert verdict == Denied("answers 401: this reporter key is not valid")


@pytest.mark.parametrize(
    "status", [301, 307, 403, 404, 405, 408, 415, 429, 500, 502, 503, 504, 507]
)
def test_what_is_no_fault_of_the_reports_keeps_them(status):
    assert isinstance(judge(status), Again)
    assert isinstance(judge_request(status, {}, b"", now=NOW), Again)


def test_a_foreign_payload_is_taken_by_any_success_and_refused_by_what_names_it():
    assert judge_request(204, MARKED, b"", now=NOW) == Taken(accepted=1)
    assert isinstance(judge_request(422, MARKED, b"", now=NOW), Unfit)


def test_a_busy_collector_says_when_to_come_again():
    asked = {"retry-after": "Tue, 24 Nov 2026 12:00:30 GMT"}
    verdict = judge_reports(503, asked, b"", count=1, now=NOW)
    assert verdict == Again("answers 503", 30.0)


def test_waits_double_with_jitter_up_to_the_longest_and_begin_anew_after_success():
    pace = Pace(chance=lambda: 1.0, longest_seconds=10)
    assert [pace.wait_seconds() for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    pace.succeed()
    assert pace.wait_seconds() == 1
    assert Pace(chance=lambda: 0.0).wait_seconds() == 0.5


@given(st.lists(st.floats(0, 1e9) | st.none()), st.floats(0, 1))
def test_a_wait_that_was_asked_for_is_never_undercut_nor_endless(asked, chance):
    pace = Pace(chance=lambda: chance)
    for each in asked:
        wait = pace.wait_seconds(asked_seconds=each)
        assert wait >= min(each or 0, LONGEST_RETRY_AFTER_SECONDS)
        assert 0.5 <= wait <= LONGEST_RETRY_AFTER_SECONDS * 1.1


def test_who_reports_for_itself_sends_what_fits_a_request_without_a_key():
    target = Target(url="https://traffic.example.com", subscription="a-subscription-token")
    assert target.parcel().most_items == MOST_REPORTS_WITHOUT_KEY
    with_key = Target(url="https://traffic.example.com", key="rk_a-key-for-tests")
    assert with_key.parcel().most_items == DEFAULT_BATCH_REPORTS


@pytest.mark.parametrize(
    ("mark", "is_anothers"),
    [("1", False), ("1 abc", False), ("1 abd", True), ("1 -", True), (None, False)],
)
def test_an_answer_that_repeats_the_word_of_another_request_is_none_of_this_one(mark, is_anothers):
    headers = {} if mark is None else {"traffic-collector": mark}
    assert is_of_another_request(headers, "abc") == is_anothers


@pytest.mark.parametrize("word", ["", "a b", "a\r\nset-cookie: x", "x" * 65, "\u0661", None])
def test_a_collector_repeats_no_word_that_is_none(word):
    assert mark_of(word) == "1 -"
