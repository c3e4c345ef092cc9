"""Quotas that begin and cease to span panels: what is used stays used, and once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marzban_bridge.quota.account import Account, ResetRequest, Superseded, snapshot_of
from marzban_bridge.quota.shared_switch import (
    Member,
    form,
    leave,
    leave_while_gone,
    lifetime_totals,
    with_reset_to_follow,
)
from marzban_bridge.quota.usage import Totals
from tests.support.bridge.bridge_builders import NOW, account, gib, panel_user

ORDER = ("default", "two", "three")
AMOUNTS = st.integers(min_value=0, max_value=2**50)


def both(amount: int) -> Totals:
    return Totals(billed_bytes=amount, raw_bytes=amount, seqs=())


def member(used: int, external: int, baseline: int, **fields) -> Member:
    total = baseline + external
    opened = account(
        panel_user(used_bytes=used), baseline_bytes=baseline, seen_total_bytes=total, **fields
    )
    return Member(account=opened, own=both(total))


def used_alone(each: Member) -> int:
    taken = each.account
    return each.own.billed_bytes - taken.baseline_bytes + taken.sighting.used_bytes


def shared_totals(members, nobodys: int) -> dict[str, Totals]:
    everything = nobodys + sum(lifetime_totals(each).billed_bytes for each in members.values())
    return {
        name: both(everything - each.account.lifetime_panel_bytes) for name, each in members.items()
    }


def used_together(members, nobodys: int) -> set[int]:
    totals = shared_totals(members, nobodys)
    return {
        totals[name].billed_bytes - each.account.baseline_bytes + each.account.sighting.used_bytes
        for name, each in members.items()
    }


def with_accounts(members, accounts: dict[str, Account]) -> dict[str, Member]:
    return {name: replace(each, account=accounts[name]) for name, each in members.items()}


def after_more(each: Member, used: int, external: int) -> Member:
    """Return a member that used more on its panel and that more was reported for."""
    seen = each.account.sighting
    later = replace(
        seen, used_bytes=seen.used_bytes + used, lifetime_bytes=seen.lifetime_bytes + used
    )
    own = both(each.own.billed_bytes + external)
    return Member(account=replace(each.account, sighting=later), own=own)


MEMBERS = st.lists(st.tuples(AMOUNTS, AMOUNTS, AMOUNTS), min_size=1, max_size=3).map(
    lambda values: {name: member(*each) for name, each in zip(ORDER, values, strict=False)}
)
MORE = st.lists(st.tuples(AMOUNTS, AMOUNTS), min_size=3, max_size=3)


@given(members=MEMBERS, more=MORE, nobodys=AMOUNTS, late=AMOUNTS)
def test_however_often_it_is_switched_what_is_used_stays_used_and_once(
    members, more, nobodys, late
):
    expected = sum(map(used_alone, members.values()))
    for _ in range(3):
        shared, formed = form(members, nobodys=both(nobodys))
        members = with_accounts(members, formed)
        assert used_together(members, nobodys) == {expected}
        members = {
            name: after_more(each, *some)
            for (name, each), some in zip(members.items(), more, strict=False)
        }
        nobodys += late
        expected += late + sum(used + external for used, external in more[: len(members)])
        assert used_together(members, nobodys) == {expected}
        totals = shared_totals(members, nobodys)
        members = with_accounts(members, leave(members, shared, totals=totals))
        assert sum(map(used_alone, members.values())) == expected
        for each in members.values():
            assert used_alone(each) >= each.account.sighting.used_bytes
            assert each.account.seen_total_bytes == each.own.billed_bytes
            assert each.account.shared_period is None


def test_each_has_its_own_share_and_the_first_takes_what_is_left_over():
    members = {
        "default": member(gib(1), gib(1), gib(7)),
        "two": member(gib(2), gib(0.5), gib(70)),
    }
    shared, formed = form(members, nobodys=both(gib(100)))
    members = with_accounts(members, formed)
    members = {name: after_more(each, 0, gib(1)) for name, each in members.items()}
    totals = shared_totals(members, gib(100.25))
    left = with_accounts(members, leave(members, shared, totals=totals))
    assert used_alone(left["two"]) == gib(3.5)
    assert used_alone(left["default"]) == gib(3.25)


def test_what_a_correction_took_back_before_is_not_taken_back_again():
    one, other = member(0, gib(1), 0), member(0, gib(2), 0)
    one = replace(one, account=replace(one.account, corrected_seqs=(("alice", 7),)))
    other = replace(other, account=replace(other.account, corrected_seqs=(("two/alice", 9),)))
    nobodys = Totals(billed_bytes=0, raw_bytes=0, seqs=(("three/alice", 5),))
    shared, formed = form({"default": one, "two": other}, nobodys=nobodys)
    assert dict(shared.corrected_seqs) == {"alice": 7, "two/alice": 9, "three/alice": 5}
    assert formed["two"].corrected_seqs == shared.corrected_seqs


def request(total: int) -> ResetRequest:
    return ResetRequest(
        cause="asked", actor="root", total_bytes=total, raw_total_bytes=total, requested_at=NOW
    )


def test_a_reset_that_is_still_to_be_carried_out_when_they_begin_to_share_is_its_own():
    """Panel two was asked to reset the user at an own total of 4, and 1 was reported since."""
    asked = member(gib(3), gib(5), 0, reset_request=request(gib(4)))
    members = {"default": member(gib(1), gib(2), 0), "two": asked}
    shared, formed = form(members, nobodys=both(0))
    everything = sum(lifetime_totals(each).billed_bytes for each in members.values())
    assert everything - shared.start.billed_bytes == gib(1) + gib(2) + gib(1)
    assert formed["two"].reset_request.shared_period == shared.period
    assert formed["two"].shared_period < shared.period


def test_a_panel_that_has_still_to_follow_when_they_cease_to_share_owes_the_reset():
    members = {"default": member(gib(1), 0, 0), "two": member(gib(3), 0, 0)}
    shared, formed = form(members, nobodys=both(0))
    members = with_accounts(members, formed)
    # Everything until now is before the period that the first panel began.
    begun = replace(shared, period=1, start=both(gib(3)), starts={"two": both(gib(3))})
    first = replace(members["default"].account, shared_period=1, baseline_bytes=gib(3))
    first = replace(first, raw_baseline_bytes=gib(3))
    members["default"] = replace(members["default"], account=first)
    members["two"] = after_more(members["two"], 0, gib(2))
    left = with_accounts(members, leave(members, begun, totals=shared_totals(members, 0)))
    assert used_alone(left["default"]) == gib(1)
    two = left["two"].account
    assert two.owes_reset
    assert left["two"].own.billed_bytes - two.baseline_bytes == gib(2)
    # It is reset by itself meanwhile, after another 0.5 that was not seen.
    seen = snapshot_of(panel_user(used_bytes=gib(1), logged_bytes=gib(3.5)), seen_at=NOW)
    done = with_reset_to_follow(
        two, replace(two, sighting=seen, baseline_bytes=gib(50)), was_reset=True
    )
    assert left["two"].own.billed_bytes - done.baseline_bytes == gib(2.5)
    assert not done.owes_reset


def test_who_is_gone_counts_nothing_twice_when_it_is_back():
    gone = account(panel_user(used_bytes=gib(2)), shared_period=3, seen_total_bytes=gib(9))
    left = leave_while_gone(gone, own=both(gib(5)))
    assert used_alone(Member(account=left, own=both(gib(5)))) == 0


@pytest.mark.parametrize(
    ("shared_quota", "superseded", "quota", "is_forgotten"),
    [
        (gib(10), None, gib(10), True),
        (gib(10), gib(20), gib(10), False),
        (None, gib(20), gib(20), True),
    ],
    ids=["the shared one", "also where the panel shows another", "but for one of its own"],
)
def test_the_quota_afterwards(shared_quota, superseded, quota, is_forgotten):
    shown = None if superseded is None else Superseded(data_limit_bytes=superseded)
    members = {"default": member(0, 0, 0)}
    shared, formed = form(members, nobodys=both(0))
    taken = replace(formed["default"], quota_bytes=shared_quota, superseded=shown)
    members = with_accounts(members, {"default": taken})
    left = leave(members, shared, totals=shared_totals(members, 0))["default"]
    assert left.quota_bytes == quota
    assert (left.superseded is None) is is_forgotten
