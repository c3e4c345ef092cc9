"""Is the ledger the one that was read, gone on; and if it went back, to where."""

from __future__ import annotations

import pytest

from marzban_bridge.feed.ledger_runs import MAX_RUNS, WriterRun, last_shared_seq, learn, went_back

A, B, C = WriterRun(0, "a"), WriterRun(50, "b"), WriterRun(80, "c")
OTHER = WriterRun(60, "x")


@pytest.mark.parametrize(
    ("known", "runs", "cursor", "head", "expected"),
    [
        pytest.param((), (), 0, 0, False, id="nothing was ever read"),
        pytest.param((A,), (A,), 40, 40, False, id="nothing new"),
        pytest.param((A,), (A, B), 50, 90, False, id="it was restarted where we were"),
        pytest.param((A,), (A, B, C), 40, 90, False, id="it was restarted beyond"),
        pytest.param((A, B), (B, C), 70, 90, False, id="read within a run"),
        pytest.param((A, B), (B,), 70, 60, True, id="it is shorter"),
        pytest.param((A, B), (OTHER,), 70, 90, True, id="restored within the last run, regrown"),
        pytest.param((A, B), (WriterRun(40, "x"),), 70, 90, True, id="restored before it, regrown"),
        pytest.param((A, B), (WriterRun(50, "x"),), 70, 90, True, id="restored to where it began"),
        pytest.param(
            (A, B), (B, WriterRun(70, "x")), 70, 90, False, id="restored, and nothing lost"
        ),
        pytest.param((A, B), (), 70, 90, False, id="an older collector does not say"),
        pytest.param((A, B), (C,), 70, 90, False, id="it has forgotten who stored what we read"),
        pytest.param((), (B, C), 70, 90, False, id="we did not note it yet"),
    ],
)
def test_a_ledger_that_went_back_is_told_by_who_stored_what_was_read(
    known, runs, cursor, head, expected
):
    assert went_back(known, runs, cursor=cursor, head=head) is expected


@pytest.mark.parametrize(
    ("known", "runs", "head", "expected"),
    [
        pytest.param((A, B, C), (A, B, OTHER), 90, 60, id="the next run after the last shared"),
        pytest.param((A, B, C), (A, B), 70, 70, id="its end, if it has not gone on"),
        pytest.param(
            (A, B), (A, WriterRun(40, "x"), WriterRun(60, "y")), 90, 40, id="the first of several"
        ),
        pytest.param((A, B), (WriterRun(0, "x"),), 90, 0, id="nothing, if no run is shared"),
        pytest.param((), (A, B), 90, 90, id="its end, if nothing was noted"),
    ],
)
def test_what_is_still_there_is_told_by_the_last_run_both_know(known, runs, head, expected):
    assert last_shared_seq(known, runs, head=head) == expected


def test_only_runs_that_stored_what_was_read_are_noted():
    assert learn((A,), (A, B, C), cursor=50) == (A,)
    assert learn((A,), (A, B, C), cursor=51) == (A, B)
    assert learn((A, B), (B, C), cursor=90) == (A, B, C)
    many = tuple(WriterRun(seq, "t") for seq in range(MAX_RUNS + 5))
    assert learn((), many, cursor=10**6) == many[5:]
