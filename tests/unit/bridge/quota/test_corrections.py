"""What a correction changes in an account, case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest

from marzban_bridge.quota.account import shifted
from marzban_bridge.quota.corrections import (
    Answer,
    Question,
    Source,
    corrected,
    corrected_together,
    question,
    question_of_admin,
)
from marzban_bridge.quota.shared_quota import SharedQuota
from marzban_bridge.quota.usage import CorrectedName, Totals
from tests.support.bridge import bridge_builders
from tests.support.bridge.bridge_builders import NOW

NAME = CorrectedName(
    username="alice", panel="default", key="alice", through_seq=50, corrected_seq=40
)
ASKED = Question(username="alice", after_seq=0, through_seq=50, period_seq=10, period_since=NOW)


def account(**changes):
    base = bridge_builders.account()
    return replace(base, baseline_bytes=100, raw_baseline_bytes=100, **changes)


def answer(billed, raw=None, *, of_all=None):
    raw = billed if raw is None else raw
    return Answer(
        billed_bytes=billed,
        raw_bytes=raw,
        all_billed_bytes=billed if of_all is None else of_all,
        sources=(
            Source(number=3, kind="void", reason="stolen", actor="root@vm", scope="reporter:r"),
        ),
    )


@pytest.mark.parametrize(
    ("total", "billed", "external"),
    [
        (1100, -300, 700),
        (1100, -1000, 0),
        (1100, -5000, 0),
        (1100, 0, 1000),
        (1100, 250, 1250),
        (100, -1, 0),
    ],
)
def test_external_usage_falls_by_what_was_taken_back_and_not_below_nothing(total, billed, external):
    totals = Totals(billed_bytes=total, raw_bytes=total)
    after, event = corrected(account(), ASKED, answer(billed), totals=totals)
    assert total - after.baseline_bytes == external
    assert total - after.raw_baseline_bytes == external
    assert dict(after.corrected_seqs) == {"alice": 50}
    assert (event.kind, event.actor) == ("corrected", "root@vm")
    assert (event.before, event.after) == (str(total - 100), str(external))


def test_billed_and_raw_bytes_are_taken_back_apart():
    totals = Totals(billed_bytes=1100, raw_bytes=600)
    after, _ = corrected(account(), ASKED, answer(-400, -200), totals=totals)
    assert (1100 - after.baseline_bytes, 600 - after.raw_baseline_bytes) == (600, 300)


def test_the_event_says_why_and_how_much_of_it_is_of_the_period():
    totals = Totals(billed_bytes=1100, raw_bytes=1100)
    _, event = corrected(account(), ASKED, answer(-400, of_all=-900), totals=totals)
    assert event.text == (
        "correction 3 (void of reporter:r: stolen): -900 B, -400 B of it in the current period"
    )
    _, event = corrected(account(), ASKED, answer(0, of_all=-900), totals=totals)
    assert event.text.endswith("-900 B, none of it in the current period")


@pytest.mark.parametrize(
    ("corrected_seqs", "period_seqs", "counted_from", "expected"),
    [
        ((), (("alice", 10),), 0, (0, 10)),
        ((("alice", 30),), (("alice", 10),), 0, (30, 10)),
        ((("alice", 40),), (("alice", 10),), 0, None),
        ((("bob", 45),), (("bob", 12),), 0, (0, 0)),
        ((), None, 0, (0, None)),
        ((), (("alice", 10),), 20, (0, 20)),
        ((), None, 20, (0, 20)),
    ],
)
def test_what_is_asked_is_what_was_not_applied_with_the_periods_number(
    corrected_seqs, period_seqs, counted_from, expected
):
    asking = account(corrected_seqs=corrected_seqs, period_seqs=period_seqs)
    asked = question(asking, replace(NAME, counted_from_seq=counted_from))
    assert expected == (None if asked is None else (asked.after_seq, asked.period_seq))


def test_the_owning_admins_period_is_asked_about_where_it_is_another():
    same = account(period_seqs=(("alice", 10),), admin_seqs=(("alice", 10),))
    assert question_of_admin(same, NAME) is None
    other = replace(same, admin_seqs=(("alice", 3),))
    asked = question_of_admin(other, NAME)
    assert asked is not None
    assert asked.period_seq == 3
    totals = Totals(billed_bytes=1100, raw_bytes=1100)
    after, _ = corrected(other, ASKED, answer(-10), totals=totals, of_admin=answer(-30))
    assert after.admin_baseline_bytes - other.admin_baseline_bytes == 30


def test_a_shared_period_moves_with_the_account_that_follows():
    start = Totals(billed_bytes=100, raw_bytes=100, seqs=(("alice", 10),))
    starts = {"default": start, "two": start}
    shared = SharedQuota(quota_bytes=1, panel="default", start=start, starts=starts)
    assert question(account(), NAME, shared=shared).period_seq == 10
    totals = Totals(billed_bytes=1100, raw_bytes=1100)
    before = account()
    after, _ = corrected(before, ASKED, answer(-400), totals=totals)
    moved = corrected_together(shared, before, after, ASKED, panel="two")
    assert (moved.start.billed_bytes, moved.start.raw_bytes) == (500, 500)
    assert [moved.starts[panel].billed_bytes for panel in ("default", "two")] == [100, 500]
    assert question(after, NAME, shared=moved) is None


def test_a_name_that_joins_an_account_is_before_its_period():
    joined = shifted(
        account(period_seqs=(("alice", 10),), corrected_seqs=(("alice", 20),)),
        before=Totals(billed_bytes=5, raw_bytes=5, seqs=(("alice", 30),)),
        after=Totals(billed_bytes=9, raw_bytes=9, seqs=(("ALICE", 33), ("alice", 30))),
    )
    assert dict(joined.period_seqs) == {"alice": 10, "ALICE": 33}
    assert dict(joined.corrected_seqs) == {"alice": 20, "ALICE": 33}


def test_what_a_rebase_takes_as_it_is_is_before_the_period():
    rebased = shifted(
        account(period_seqs=(("alice", 10),), corrected_seqs=(("alice", 20),)),
        before=Totals(billed_bytes=5, raw_bytes=5),
        after=Totals(billed_bytes=9, raw_bytes=9, seqs=(("alice", 30),)),
    )
    assert dict(rebased.period_seqs) == dict(rebased.corrected_seqs) == {"alice": 30}
