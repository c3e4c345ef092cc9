"""What a client says is wrong: true at each moment, told once per change."""

from __future__ import annotations

import logging

import pytest

from collector.client.delivery_errors import RejectedError
from collector.client.errors import SpoolError
from collector.client.receipt import Receipt, Rejected
from collector.client.sending.delivery import Empty, Progress, Setback
from collector.client.sending.problem_notes import ProblemNotes

BUSY = Setback("answers 503", kind="busy", status=503)
DOWN = Setback("is not running", kind="refused")


@pytest.fixture
def told():
    return []


@pytest.fixture
def notes(told, caplog):
    caplog.set_level(logging.INFO, "collector.client")
    return ProblemNotes("http://c", told.append)


def test_a_problem_is_told_when_it_begins_and_when_it_is_another(notes, told):
    for step in (BUSY, BUSY, DOWN, DOWN, BUSY):
        notes.note(step)
    assert [(each.kind, each.status) for each in told] == [
        ("busy", 503), ("refused", None), ("busy", 503),
    ]  # fmt: skip
    assert notes.text == "the collector at http://c answers 503"


def test_it_is_over_when_something_is_taken(notes, told, caplog):
    notes.note(BUSY)
    notes.note(Progress(Receipt(accepted=1)))
    assert notes.text is None
    assert "delivery_works" in caplog.text
    notes.note(BUSY)
    assert len(told) == 2


def test_with_nothing_left_to_send_there_is_none_and_it_is_not_told_anew(notes, told, caplog):
    """Another process delivered what waited."""
    notes.note(BUSY)
    notes.note(Empty())
    assert notes.text is None
    assert "delivery_works" not in caplog.text
    notes.note(BUSY)
    assert notes.text is not None
    assert len(told) == 1


def test_a_spool_that_can_be_read_again_is_well(notes, caplog):
    notes.fail(SpoolError("it is damaged"))
    assert notes.text == "it is damaged"
    notes.note(Empty())
    assert notes.text is None
    assert "delivery_works" in caplog.text


def test_refused_reports_are_told_and_are_no_problem_of_delivery(notes, told):
    notes.note(Progress(Receipt(rejected=(Rejected("a", "server is too long"),))))
    assert isinstance(told[0], RejectedError)
    assert "server is too long" in str(told[0])
    assert notes.text is None


def test_a_callback_that_fails_stops_nothing(caplog):
    def fail(_):
        raise RuntimeError

    notes = ProblemNotes("http://c", fail)
    notes.note(BUSY)
    assert notes.text is not None
    assert "error_callback_fails" in caplog.text
