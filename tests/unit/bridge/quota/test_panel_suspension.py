"""Is it the user that changed, or the panel?"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from marzban_bridge.panels.dialect import MARZBAN
from marzban_bridge.panels.users import NextPlan, PanelUser, Status
from marzban_bridge.quota.account import Account, snapshot_of
from marzban_bridge.quota.resets.detection import Fall, fall_of
from marzban_bridge.quota.trust.panel_suspension import (
    Reading,
    Shown,
    SuspensionKind,
    accounts_showing,
    is_over,
    judge,
)
from marzban_bridge.quota.trust.suspension import SuspensionReason
from tests.support.bridge.bridge_builders import NOW, account, gib, panel_user

LATER = NOW + timedelta(seconds=60)
OLD_LIMIT = gib(7) + 12_345
PUBLISHED = gib(6) + 54_321


def kept(name="alice", *, used=0.0, logged=0.0, status=Status.ACTIVE, **fields) -> Account:
    user = panel_user(username=name, used_bytes=gib(used), logged_bytes=gib(logged), status=status)
    return account(user, **fields)


def shown(before: Account, *, used=None, logged=None, **fields) -> PanelUser:
    seen = before.sighting
    used_bytes = seen.used_bytes if used is None else gib(used)
    logged_bytes = seen.logged_bytes if logged is None else gib(logged)
    return panel_user(
        username=before.username, used_bytes=used_bytes, logged_bytes=logged_bytes, **fields
    )


def read(before: Account, user: PanelUser | None, **fields) -> Reading:
    return Reading(account=before, user=user, read_at=LATER, dialect=MARZBAN, **fields)


def as_before(name, **fields):
    before = kept(name, **fields)
    return read(before, shown(before))


@pytest.mark.parametrize(
    ("before", "after", "fall"),
    [
        # (used, logged), in GiB
        ((1, 0), (1, 0), Fall.NONE),
        ((1, 5), (2, 5), Fall.NONE),
        ((5, 0), (0, 5), Fall.RESET),
        ((5, 2), (1, 7.5), Fall.RESET),
        ((0, 0), (0, 3), Fall.RESET),
        ((5, 2), (0, 6.9), Fall.RESET),  # what a node reported while the reset was made
        ((5, 2), (0, 4), Fall.PAST),
        ((5, 2), (3, 2), Fall.PAST),
        ((5, 2), (0, 2), Fall.PAST),
        ((5, 9), (6, 2), Fall.PAST),
        ((5, 9), (0, 2), Fall.PAST),
        ((5, 9), (0, 0), Fall.UNCLEAR),
        ((5, 9), (6, 0), Fall.UNCLEAR),
        ((5, 0), (0, 0), Fall.UNCLEAR),
        ((5, 0), (3, 0), Fall.UNCLEAR),
    ],
)
def test_what_used_traffic_and_log_say_together(before, after, fall):
    one, other = (
        snapshot_of(panel_user(used_bytes=gib(used), logged_bytes=gib(logged)), seen_at=NOW)
        for used, logged in (before, after)
    )
    assert fall_of(one, other) is fall


class TestOneUser:
    @pytest.mark.parametrize(
        ("before", "user", "what"),
        [
            (kept(used=1), None, Shown.GONE),
            (kept(used=1), {"created_at": NOW}, Shown.RECREATED),
            (kept(used=1), {"used": 2}, Shown.AS_BEFORE),
            (kept(used=5, logged=1), {"used": 3}, Shown.WENT_BACK),
            (kept(used=5), {"used": 3}, Shown.UNCLEAR),
            (kept(), {"data_limit_bytes": gib(9)}, Shown.OTHER_LIMIT),
        ],
    )
    def test_is_held_against_its_account(self, before, user, what):
        assert read(before, user if user is None else shown(before, **user)).shown is what

    def test_a_limit_of_earlier_tells_the_past_from_a_reset_of_all_users(self):
        before = kept(used=5, published_bytes=PUBLISHED, remembered_limits=(OLD_LIMIT, PUBLISHED))
        fell = shown(before, used=1, data_limit_bytes=OLD_LIMIT)
        assert read(before, fell).shown is Shown.WENT_BACK
        assert read(before, replace(fell, data_limit_bytes=PUBLISHED)).shown is Shown.UNCLEAR
        forgotten = replace(before, remembered_limits=())
        assert read(forgotten, fell, was_published=True).shown is Shown.WENT_BACK
        same = shown(before, data_limit_bytes=OLD_LIMIT)
        assert read(before, same).shown is Shown.OLD_LIMIT

    def test_a_line_of_an_earlier_write_does_as_well(self):
        before = kept(used=5)
        fell = shown(before, used=1)
        assert read(before, fell, is_line_older=True).shown is Shown.WENT_BACK
        assert read(before, shown(before), is_line_older=True).shown is Shown.OLD_LIMIT


class TestTogether:
    def gone(self, count, of, **fields):
        users = [kept(f"user{number}", used=1, **fields) for number in range(of)]
        return [
            read(each, None if number < count else shown(each)) for number, each in enumerate(users)
        ]

    @pytest.mark.parametrize(
        ("count", "of", "kind"),
        [
            (1, 1, None),
            (2, 2, None),
            (3, 3, SuspensionKind.USERS_GONE),
            (3, 9, SuspensionKind.USERS_GONE),
            (3, 10, None),
            (16, 50, None),
            (17, 50, SuspensionKind.USERS_GONE),
        ],
    )
    def test_three_and_a_third_who_are_gone_are_the_panels_doing(self, count, of, kind):
        assert judge(self.gone(count, of)) is kind

    def test_those_who_were_expired_or_limited_do_not_count(self):
        readings = self.gone(9, 9)
        cleaned = [
            read(
                replace(
                    each.account, sighting=replace(each.account.sighting, status=Status.EXPIRED)
                ),
                None,
            )
            for each in readings
        ]
        assert judge([*cleaned, *self.gone(2, 3)]) is None
        assert judge([*cleaned, *self.gone(3, 9)]) is SuspensionKind.USERS_GONE

    def test_they_do_where_all_who_were_looked_at_are_gone(self):
        cleaned = [
            read(kept(f"user{number}", used=1, status=Status.LIMITED), None) for number in range(3)
        ]
        assert judge(cleaned) is SuspensionKind.USERS_GONE
        assert judge(cleaned[:2]) is None
        assert judge([*cleaned, as_before("alice", used=1)]) is None

    def test_many_who_were_created_anew(self):
        users = [kept(f"user{number}") for number in range(3)]
        readings = [read(each, shown(each, created_at=NOW)) for each in users]
        assert judge(readings) is SuspensionKind.USERS_RECREATED
        assert judge(readings[:2]) is None

    def test_one_who_went_back_is_enough(self):
        before = kept(used=5, logged=1)
        went_back = read(before, shown(before, used=3))
        readings = [went_back, *(as_before(f"user{number}", used=1) for number in range(20))]
        assert judge(readings) is SuspensionKind.WENT_BACK
        assert accounts_showing(SuspensionKind.WENT_BACK, readings) == ("alice",)

    def test_limits_of_earlier_have_to_be_shown_by_many(self):
        users = [
            kept(f"user{number}", published_bytes=PUBLISHED, remembered_limits=(OLD_LIMIT,))
            for number in range(3)
        ]
        readings = [read(each, shown(each, data_limit_bytes=OLD_LIMIT)) for each in users]
        assert judge(readings) is SuspensionKind.WENT_BACK
        assert judge(readings[:2]) is None

    @pytest.mark.parametrize("old_limit_bytes", [gib(8), OLD_LIMIT])
    def test_three_limits_that_were_published_long_ago_are_enough(self, old_limit_bytes):
        """One, or two, may be edits."""
        users = [kept(f"user{number}", published_bytes=PUBLISHED) for number in range(3)]
        readings = [
            read(each, shown(each, data_limit_bytes=old_limit_bytes), was_published=True)
            for each in users
        ]
        others = [as_before(f"other{number}", used=1) for number in range(40)]
        assert {each.shown for each in readings} == {Shown.EDIT_OR_OLD}
        assert judge([*readings, *others]) is SuspensionKind.WENT_BACK
        assert judge([*readings[:2], *others]) is None
        assert accounts_showing(SuspensionKind.WENT_BACK, readings) == ("user0", "user1", "user2")

    def test_those_that_are_known_by_themselves_have_to_be_shown_by_a_third(self):
        """A tool that sends users back as it had read them is no restored backup."""
        users = [
            kept(f"user{number}", published_bytes=PUBLISHED, remembered_limits=(OLD_LIMIT,))
            for number in range(3)
        ]
        readings = [
            read(each, shown(each, data_limit_bytes=OLD_LIMIT), was_published=True)
            for each in users
        ]
        others = [as_before(f"other{number}", used=1) for number in range(40)]
        assert judge([*readings, *others]) is None

    def test_edits_and_limits_of_earlier_count_together(self):
        before = kept(published_bytes=PUBLISHED, remembered_limits=(OLD_LIMIT,))
        old = [read(before, shown(before, data_limit_bytes=OLD_LIMIT))] * 2
        typed = read(before, shown(before, data_limit_bytes=gib(8)), was_published=True)
        assert judge([*old, typed]) is SuspensionKind.WENT_BACK

    def test_a_limit_beside_a_reset_that_was_seen_is_the_admins(self):
        before = kept(used=5, published_bytes=PUBLISHED)
        user = shown(before, used=0, logged=5, data_limit_bytes=gib(8))
        assert read(before, user, was_published=True).shown is Shown.OTHER_LIMIT

    def test_so_is_that_of_a_next_plan(self):
        plan = NextPlan(
            data_limit_bytes=gib(8), expire=99, adds_remaining_traffic=True, fires_on_either=False
        )
        user = panel_user(username="alice", next_plan=plan)
        before = account(user, published_bytes=PUBLISHED)
        fired = panel_user(username="alice", data_limit_bytes=gib(8), expire=99)
        assert read(before, fired, was_published=True).shown is not Shown.EDIT_OR_OLD


class TestResetAll:
    def fell(self, *, used=0.0, seen_at=NOW, **fields):
        before = kept(used=5, seen_at=seen_at, **fields)
        return read(before, shown(before, used=used))

    def test_without_anybody_to_speak_against_it_it_is_one(self):
        assert judge([self.fell(used=0.5)]) is None

    @pytest.mark.parametrize("fields", [{"used": 2}, {"used": 0, "logged": 2}])
    def test_a_user_of_the_same_owner_who_was_not_reset_speaks_against_it(self, fields):
        assert judge([self.fell(), as_before("bob", **fields)]) is SuspensionKind.WENT_BACK

    def test_another_owners_user_does_not(self):
        before = replace(kept("bob", used=2), admin="shop")
        assert judge([self.fell(), read(before, shown(before))]) is None

    def test_nor_one_who_had_used_nothing(self):
        assert judge([self.fell(), as_before("bob")]) is None

    @pytest.mark.parametrize("field", ["period_started_at", "reset_all_seen_at", "used_rose_at"])
    def test_nor_one_whose_traffic_is_newer_than_the_last_look(self, field):
        before = kept("bob", used=2, seen_at=LATER, **{field: NOW + timedelta(seconds=1)})
        assert judge([self.fell(), read(before, shown(before))]) is None

    def test_a_limit_of_earlier_beside_it_speaks_against_it(self):
        before = kept("bob", published_bytes=PUBLISHED, remembered_limits=(OLD_LIMIT,))
        other = read(before, shown(before, data_limit_bytes=OLD_LIMIT))
        assert judge([self.fell(), other]) is SuspensionKind.WENT_BACK
        assert judge([other, as_before("carol", used=1)]) is None

    @pytest.mark.parametrize(
        ("left", "kind"),
        [((1, 1, 1), SuspensionKind.WENT_BACK), ((1, 1, 0), None), ((0, 0, 0), None)],
    )
    def test_users_who_have_most_of_their_traffic_left_were_not_reset(self, left, kind):
        users = [kept(f"user{number}", used=1.5) for number in range(3)]
        readings = [
            read(each, shown(each, used=used)) for each, used in zip(users, left, strict=True)
        ]
        assert judge(readings) is kind

    def test_more_traffic_than_there_can_be_since_the_last_look_is_traffic_of_earlier(self):
        assert judge([self.fell(used=4.5)]) is SuspensionKind.WENT_BACK
        assert judge([self.fell(used=4.5, seen_at=NOW - timedelta(minutes=5))]) is None


class TestEnd:
    def reason(self, kind, *witnesses):
        return SuspensionReason(kind=kind, text="why", since=NOW, witnesses=witnesses)

    def test_a_panel_whose_users_are_back_is_in_doubt_no_more(self):
        reason = self.reason(SuspensionKind.USERS_GONE, "alice")
        assert is_over(reason, [as_before("alice"), as_before("bob")])
        users = [kept(f"user{number}") for number in range(3)]
        assert not is_over(reason, [read(each, None) for each in users])

    @pytest.mark.parametrize(
        ("missing", "of", "is_so"),
        [(1, 3, True), (2, 3, False), (2, 6, False), (2, 7, True), (16, 50, True), (17, 50, False)],
    )
    def test_a_panel_that_misses_a_third_of_its_users_stays_in_doubt(self, missing, of, is_so):
        users = [kept(f"user{number}", used=1, status=Status.EXPIRED) for number in range(of)]
        readings = [
            read(each, None if number < missing else shown(each, status=Status.EXPIRED))
            for number, each in enumerate(users)
        ]
        assert is_over(self.reason(SuspensionKind.USERS_GONE), readings) is is_so

    @pytest.mark.parametrize(
        ("fields", "is_so"),
        [
            ({}, True),
            ({"used": 6}, True),
            ({"used": 6, "data_limit_bytes": OLD_LIMIT}, False),
            ({"used": 6, "data_limit_bytes": gib(10)}, False),
            ({"used": 0, "logged": 6}, False),
        ],
    )
    def test_who_went_back_has_to_have_its_limit_and_its_log_again(self, fields, is_so):
        before = kept(
            used=5, logged=1, published_bytes=PUBLISHED, remembered_limits=(OLD_LIMIT, PUBLISHED)
        )
        user = shown(before, **{"data_limit_bytes": PUBLISHED} | fields)
        assert (
            is_over(self.reason(SuspensionKind.WENT_BACK, "alice"), [read(before, user)]) is is_so
        )

    def test_who_was_deleted_before_the_backup_is_no_obstacle_where_another_was_put_forward(self):
        reason = self.reason(SuspensionKind.WENT_BACK, "alice", "bob")
        gone, back = read(kept("alice", used=5), None), as_before("bob", used=5)
        assert is_over(reason, [gone, back, as_before("carol"), as_before("dave")])
        assert not is_over(reason, [gone, as_before("carol"), as_before("dave")])
        went_back = read(kept("bob", used=5), shown(kept("bob"), used=3))
        assert not is_over(reason, [gone, went_back, as_before("carol"), as_before("dave")])
