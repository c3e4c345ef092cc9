"""One quota for the users of one name: the arithmetic, on its own."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from marzban_bridge.panels.users import ResetStrategy
from marzban_bridge.quota.account import ResetRequest, Superseded, moved_along, snapshot_of
from marzban_bridge.quota.shared import (
    begun_as,
    completed,
    depart,
    fold,
    forgive,
    is_behind,
    is_same_reset,
    period_of,
    put_back,
    renewed,
    spent_between,
)
from marzban_bridge.quota.shared_quota import Anew, SharedQuota
from marzban_bridge.quota.usage import NOTHING, Totals
from tests.support.bridge.bridge_builders import CREATED_AT, NOW, account, gib, panel_user

ORDER = ("default", "two", "three")


def both(amount):
    return Totals(billed_bytes=amount, raw_bytes=amount)


def joined(before, after, shared, panel="default", *, was_reset=False, others=None):
    return fold(
        before,
        after,
        shared,
        panel=panel,
        order=ORDER,
        was_reset=was_reset,
        others=others or {},
    )


@pytest.mark.parametrize(
    ("before", "after", "spent"),
    [
        ((0, 0), (0, 0), 0),
        ((0, 5), (0, 9), 0),
        ((0, 5), (5, 0), 5),
        ((3, 5), (9, 1), 6),
        ((0, 5), (0, 2), 5),
        ((4, 5), (0, 0), 5),
        ((4, 0), (0, 0), 0),
    ],
    ids=[
        "nothing",
        "traffic",
        "a reset",
        "a reset with traffic before it that was not seen",
        "a log that was wiped, and traffic since",
        "a wiped log",
        "a wiped log of a user without traffic",
    ],
)
def test_what_a_reset_took_from_the_counter_is_in_the_log_or_was_seen(before, after, spent):
    one, other = (
        snapshot_of(panel_user(logged_bytes=logged, used_bytes=used), seen_at=NOW)
        for logged, used in (before, after)
    )
    assert spent_between(one, other) == spent


def test_the_first_account_of_a_name_brings_its_quota_and_its_period():
    opened = account(baseline_bytes=gib(3))
    taken, shared, events = joined(None, opened, None)
    assert (shared.quota_bytes, shared.panel) == (gib(10), "default")
    assert shared.start == both(gib(3))
    assert taken.baseline_bytes == gib(3)
    assert events == ()


def test_a_later_panel_takes_the_quota_and_says_so_and_its_own_limit_is_nobodys_word():
    shared = SharedQuota(quota_bytes=gib(10), panel="default", start=both(gib(3)), period=4)
    user = panel_user(data_limit_bytes=gib(20), used_bytes=gib(1))
    taken, after, (event,) = joined(None, account(user, quota_bytes=gib(20)), shared, "two")
    assert after == shared
    assert taken.quota_bytes == gib(10)
    assert taken.superseded == Superseded(data_limit_bytes=gib(20))
    assert (taken.shared_period, taken.baseline_bytes) == (4, gib(3))
    assert (event.kind, event.before, event.after) == (
        "quota_changed",
        str(gib(20)),
        str(gib(10)),
    )


@pytest.mark.parametrize(("is_edited", "quota"), [(False, gib(20)), (True, gib(10))])
def test_a_panel_that_goes_before_has_its_word_unless_an_admin_had_one_since(is_edited, quota):
    shared = SharedQuota(
        quota_bytes=gib(10), panel="two", start=NOTHING, version=3, is_edited=is_edited
    )
    opened = account(panel_user(data_limit_bytes=gib(20)), quota_bytes=gib(20))
    taken, after, _ = joined(None, opened, shared)
    assert taken.quota_bytes == after.quota_bytes == quota
    assert taken.shared_version == after.version


def test_a_user_created_again_on_the_panel_whose_word_it_is_brings_a_new_one():
    before, shared, _ = joined(None, account(), None)
    user = panel_user(created_at=CREATED_AT + timedelta(days=1), data_limit_bytes=gib(30))
    again, after, _ = joined(before, account(user, quota_bytes=gib(30)), shared)
    assert again.quota_bytes == after.quota_bytes == gib(30)


def test_an_edit_is_the_quota_of_all():
    before, shared, _ = joined(None, account(), None)
    _, after, _ = joined(before, replace(before, quota_bytes=gib(30)), shared)
    assert (after.quota_bytes, after.is_edited, after.version) == (gib(30), True, 2)


def test_a_reset_begins_a_period_at_what_everything_was_then():
    user = panel_user(used_bytes=gib(4))
    before, shared, _ = joined(None, account(user), None)
    assert before.lifetime_panel_bytes == gib(4)
    seen = replace(
        before,
        sighting=snapshot_of(panel_user(used_bytes=gib(1), logged_bytes=gib(4)), seen_at=NOW),
        baseline_bytes=gib(6),
        raw_baseline_bytes=gib(6),
    )
    after, begun, _ = joined(before, seen, shared, was_reset=True)
    assert (begun.period, begun.start) == (1, both(gib(10)))
    assert after.lifetime_panel_bytes == gib(5)
    assert after.baseline_bytes == gib(6)


def test_a_reset_of_who_is_behind_is_the_one_that_was_still_to_follow():
    before, shared, _ = joined(None, account(panel_user(used_bytes=gib(4))), None)
    ahead = replace(shared, period=1, start=both(gib(20)))
    assert is_behind(before, ahead)
    seen = replace(
        before, sighting=snapshot_of(panel_user(used_bytes=0, logged_bytes=gib(4)), seen_at=NOW)
    )
    after, same, _ = joined(before, seen, ahead, was_reset=True)
    assert same == ahead
    assert not is_behind(after, ahead)
    assert after.baseline_bytes == gib(20) - gib(4)


@pytest.mark.parametrize(("period", "expected"), [(None, 2), (1, 1)])
def test_a_finished_reset_begins_a_period_or_follows_one(period, expected):
    before, shared, _ = joined(None, account(panel_user(used_bytes=gib(4))), None)
    ahead = replace(shared, period=1, start=both(gib(20)))
    done = replace(
        before,
        baseline_bytes=gib(18),
        raw_baseline_bytes=gib(18),
        sighting=snapshot_of(panel_user(logged_bytes=gib(4)), seen_at=NOW),
    )
    after, shared = completed(before, done, ahead, period=period)
    assert shared.period == after.shared_period == expected
    assert after.spent_before_bytes == gib(4)
    assert after.baseline_bytes == (gib(18) if period is None else gib(16))


def test_a_held_account_is_left_as_it_is():
    held = account(is_held=True)
    after, _, events = joined(held, held, None)
    assert (after, events) == (held, ())


def test_who_departs_leaves_what_it_counted():
    shared = SharedQuota(quota_bytes=None, panel="two", departed_bytes=1)
    gone = account(panel_user(used_bytes=5), spent_before_bytes=7)
    assert depart(shared, gone).departed_bytes == 13


@pytest.mark.parametrize(
    ("asked_in", "period", "follows", "expected"),
    [
        (2, 2, None, None),
        (2, 3, None, 3),
        (None, 3, None, None),
        (2, 3, 3, 3),
        (2, 4, 3, 3),
    ],
    ids=[
        "it begins a period",
        "another panel has begun one since",
        "asked for by an earlier version",
        "it follows one",
        "it follows one, and another has begun since",
    ],
)
def test_a_reset_that_ends_after_another_began_a_period_is_part_of_that(
    asked_in, period, follows, expected
):
    request = ResetRequest(
        cause="",
        actor="",
        total_bytes=0,
        raw_total_bytes=0,
        requested_at=NOW,
        shared_period=follows,
        requested_in_period=asked_in,
    )
    shared = SharedQuota(quota_bytes=gib(10), panel="default", period=period)
    assert period_of(request, shared) == expected


FOUND_AT = NOW - timedelta(hours=5)


@pytest.mark.parametrize(
    ("total", "strategy", "started", "is_same"),
    [
        (6, ResetStrategy.NO_RESET, timedelta(days=9), True),
        (7, ResetStrategy.NO_RESET, timedelta(days=9), False),
        (7, ResetStrategy.DAY, timedelta(hours=29), True),
        (7, ResetStrategy.DAY, timedelta(hours=28), True),
        (7, ResetStrategy.DAY, timedelta(hours=27), False),
        (7, ResetStrategy.MONTH, timedelta(days=3), False),
    ],
    ids=[
        "nothing was used since",
        "something was",
        "its schedule had it due at the same time",
        "within the hour of the panel's job",
        "it was due later",
        "it is not due yet",
    ],
)
def test_the_reset_of_who_is_behind_is_another_one_after_traffic(total, strategy, started, is_same):
    """Of 10 that were known of when the period began the panel itself had counted 4."""
    shared = SharedQuota(
        quota_bytes=1, panel="default", period=1, began_at=FOUND_AT, known_bytes=gib(10)
    )
    user = panel_user(used_bytes=gib(4), reset_strategy=strategy)
    before = account(user, period_started_at=NOW - started, shared_period=0)
    assert is_same_reset(before, shared, total_bytes=gib(total), at=NOW) is is_same


def member(generation, limit=None):
    return account(generation=generation, joined_limit_bytes=limit)


@pytest.mark.parametrize(
    ("members", "edited", "quota", "generation"),
    [
        ([member(0), member(1, gib(5))], None, gib(10), 0),
        ([member(1, gib(7)), member(1, gib(5))], None, gib(7), 1),
        ([member(1), member(1, gib(5))], None, None, 1),
        ([member(1, gib(7))], 0, gib(7), 1),
        ([member(1, gib(7))], 1, gib(10), 1),
    ],
    ids=[
        "one is left that was there before",
        "the first panel's limit is the quota",
        "also where there is none",
        "what an admin set of the old one is not",
        "what an admin set of the new one is",
    ],
)
def test_a_name_begins_anew_once_all_of_its_users_are_new(members, edited, quota, generation):
    shared = SharedQuota(
        quota_bytes=gib(10),
        panel="default",
        start=both(gib(1)),
        is_edited=edited is not None,
        edited_generation=edited or 0,
        anew=Anew(start=both(gib(6)), corrected_seqs=(("alice", 3),), starts={"two": NOTHING}),
    )
    after = renewed(shared, dict(zip(ORDER, members, strict=False)))
    assert (after.quota_bytes, after.generation) == (quota, generation)
    if generation:
        assert (after.start, after.corrected_seqs) == (both(gib(6)), (("alice", 3),))
        assert (after.anew, after.starts) == (None, {"two": NOTHING})
        assert after.version > shared.version
    else:
        assert after == shared


def test_a_reset_since_they_were_made_anew_is_where_the_period_begins():
    anew = Anew(start=both(gib(6)), corrected_seqs=())
    shared = SharedQuota(quota_bytes=1, panel="default", start=both(gib(8)), anew=anew)
    assert renewed(shared, {"default": member(1)}).start == both(gib(8))


def test_who_was_made_anew_and_is_gone_again_counts_for_nothing():
    anew = Anew(start=both(gib(6)), corrected_seqs=())
    shared = SharedQuota(quota_bytes=1, panel="default", start=NOTHING, anew=anew)
    assert renewed(shared, {"default": member(0)}).anew is None


@pytest.mark.parametrize(
    ("shared", "quota", "start"),
    [
        ({"quota_bytes": gib(50), "start": both(gib(9)), "generation": 1}, gib(10), gib(1)),
        ({"quota_bytes": gib(70), "is_edited": True}, gib(70), gib(1)),
        ({"quota_bytes": gib(50), "start": both(gib(9)), "period": 1}, gib(50), gib(9)),
    ],
    ids=["all is as before", "but for what an admin has set", "but for a reset"],
)
def test_who_is_back_shares_again_what_it_shared_before_another_took_its_place(
    shared, quota, start
):
    before = SharedQuota(quota_bytes=gib(10), panel="default", start=both(gib(1)))
    since = replace(replace(before, version=7, departed_bytes=5), **shared)
    after = put_back(since, before)
    assert (after.quota_bytes, after.start.billed_bytes, after.departed_bytes) == (quota, start, 5)


def in_period(period, *, baseline=0, **fields):
    return account(shared_period=period, baseline_bytes=baseline, **fields)


def test_accounts_move_along_with_the_beginning_of_their_period():
    before = SharedQuota(quota_bytes=gib(1), panel="default", period=2, start=both(100))
    after = replace(before, start=both(130), corrected_seqs=(("alice", 9),))
    moved = after.moved_since(before)
    found = moved_along(in_period(2, baseline=90), moved, corrected_seqs=after.corrected_seqs)
    assert (found.baseline_bytes, found.corrected_seqs) == (120, (("alice", 9),))
    held = in_period(2, baseline=90, is_held=True)
    found = moved_along(held, moved, corrected_seqs=after.corrected_seqs)
    assert (found.baseline_bytes, found.corrected_seqs) == (120, ())
    assert replace(after, period=3).moved_since(before) is None
    assert after.moved_since(replace(before, start=None)) is None


def test_what_a_panel_lost_is_taken_off_its_share_and_none_of_it_of_an_earlier_period():
    starts = {"default": both(60), "two": both(40)}
    shared = SharedQuota(
        quota_bytes=gib(1), panel="default", period=2, start=both(100), starts=starts
    )
    assert forgive(shared, in_period(1), 30, panel="two") == shared
    found = forgive(shared, in_period(2), 30, panel="two")
    assert found.start == both(130)
    assert found.starts == {"default": both(60), "two": both(70)}


def test_after_a_rebase_the_period_begins_with_the_first_account_that_is_in_it():
    shared = SharedQuota(quota_bytes=gib(1), panel="default", period=2, start=both(100))
    behind, first = in_period(1, baseline=7), in_period(2, baseline=50, spent_before_bytes=5)
    members = {"default": behind, "two": first, "three": in_period(2, baseline=60)}
    assert begun_as(members, shared).start == both(55)
    assert begun_as({"default": behind}, shared).start is None
