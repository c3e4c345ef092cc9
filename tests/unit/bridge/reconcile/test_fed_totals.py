"""What the feed brought of a user is kept for a minute, finely, and not for longer."""

from __future__ import annotations

from datetime import timedelta

from marzban_bridge.quota.resets.told_times import with_fed_totals
from marzban_bridge.reconcile.users.fed_totals import KEPT_FOR, MAX_KEPT, FedTotals
from tests.support.bridge.bridge_builders import NOW, account, as_reported


def after(seconds):
    return NOW + timedelta(seconds=seconds)


def fed(*seconds):
    totals = FedTotals()
    for number, at in enumerate(seconds, start=1):
        totals.note("alice", as_reported(number), at=after(at))
    return totals


def kept(totals):
    return [
        ((each.at - NOW).total_seconds(), each.totals.billed_bytes) for each in totals.of("alice")
    ]


def test_the_newest_is_always_there_and_those_before_it_are_seconds_apart():
    assert kept(fed(0, 1, 2, 6, 7)) == [(0, 1), (6, 4), (7, 5)]


def test_there_is_no_more_than_a_minute_of_a_user_and_nothing_of_one_who_went_quiet():
    assert len(kept(fed(*range(0, 600, 5)))) == MAX_KEPT
    totals = fed(0)
    totals.note("bob", as_reported(1), at=after(KEPT_FOR.total_seconds()))
    assert kept(totals) == [(0, 1)]
    totals.note("bob", as_reported(2), at=after(KEPT_FOR.total_seconds() + 1))
    assert kept(totals) == []


def test_what_came_before_the_accounts_first_kept_look_is_left_out():
    looked = account()
    assert with_fed_totals(looked, fed(0).of("alice")) == looked
    [first, last] = fed(5, 30).of("alice")
    looked = account(recent_totals=(first,))
    merged = with_fed_totals(looked, (*fed(0).of("alice"), last))
    assert merged.recent_totals == (first, last)
