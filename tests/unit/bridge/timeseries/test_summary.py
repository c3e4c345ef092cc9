"""Sums and lists over all users, and when they are due."""

from __future__ import annotations

import re

import msgspec
import pytest

from collector.influx.delivery import Refused
from collector.schema import LIST_LENGTH, RESELLER_USERS, USER_COUNTS, USER_LISTS, UserList
from marzban_bridge.panels.users import Status
from marzban_bridge.timeseries.figures import UserFigures
from marzban_bridge.timeseries.summaries import APART_SECONDS, Summaries
from marzban_bridge.timeseries.summary import counts, list_lines, lists, of_admins, reseller_lines

NOW_MILLIS = 1_779_278_400_000
DAY_MILLIS = 86_400_000
KINDS = {"i": int, '"': str}


def user(name="alice", *, ratio=0.5, **fields):
    """Figures of a user of ten bytes."""
    plain = UserFigures(
        user=name,
        admin="shop",
        panel="default",
        status=Status.ACTIVE,
        quota_bytes=10,
        marzban_bytes=0,
        external_bytes=int(10 * ratio),
        used_ratio=ratio,
        days_to_limit=-1.0,
        expires_at_millis=0,
        online_at_millis=0,
        next_reset_at_millis=0,
        is_unenforced=False,
        panel_user_url="",
    )
    return msgspec.structs.replace(plain, **fields)


def names(which, *users):
    found = [each for each in lists(users, at_millis=NOW_MILLIS) if each.list is which]
    assert len(found) == LIST_LENGTH
    assert [each.rank for each in found] == [f"{n:02}" for n in range(1, LIST_LENGTH + 1)]
    return [each.figures.user for each in found if each.figures]


class TestLists:
    def test_near_is_four_fifths_to_all_the_nearest_first(self):
        users = [user(str(n), ratio=n / 100) for n in (79, 80, 99, 100, 150)]
        assert names(UserList.NEAR, *users) == ["99", "80"]

    def test_over_is_apart_and_begins_with_whom_nobody_stops(self):
        users = [
            user("a", ratio=1),
            user("b", ratio=2),
            user("c", ratio=1.1, is_unenforced=True),
            user("d", ratio=0.99),
        ]
        assert names(UserList.OVER, *users) == ["c", "b", "a"]

    def test_many_who_are_over_do_not_push_out_who_is_near(self):
        users = [user(f"over{n}", ratio=1.5) for n in range(2 * LIST_LENGTH)]
        assert names(UserList.NEAR, *users, user("near", ratio=0.9)) == ["near"]
        assert len(names(UserList.OVER, *users)) == LIST_LENGTH

    def test_next_is_in_the_order_of_the_forecast(self):
        users = [
            user("b", days_to_limit=2.0),
            user("a", days_to_limit=0.5),
            user("without"),
            user("over", ratio=1.2, days_to_limit=0.0),
        ]
        assert names(UserList.NEXT, *users) == ["a", "b"]

    def test_expiring_is_who_is_let_in_for_some_days_more(self):
        users = [
            user("later", expires_at_millis=NOW_MILLIS + 20 * DAY_MILLIS),
            user("soon", expires_at_millis=NOW_MILLIS + DAY_MILLIS),
            user("past", expires_at_millis=NOW_MILLIS - 1),
            user("far", expires_at_millis=NOW_MILLIS + 31 * DAY_MILLIS),
            user("off", expires_at_millis=NOW_MILLIS + DAY_MILLIS, status=Status.DISABLED),
            user("never"),
        ]
        assert names(UserList.EXPIRING, *users) == ["soon", "later"]

    def test_an_unlimited_user_is_near_nothing(self):
        for which in UserList:
            assert names(which, user(quota_bytes=0, used_ratio=0.0)) == []


class TestSums:
    USERS = (
        user("a", ratio=0.9, marzban_bytes=1),
        user("b", ratio=1.1, is_unenforced=True),
        user("c", admin="-", status=Status.ON_HOLD),
        user("d", panel="two", status=Status.EXPIRED),
        user("e", expires_at_millis=NOW_MILLIS + 6 * DAY_MILLIS),
        user("f", expires_at_millis=NOW_MILLIS + 8 * DAY_MILLIS),
    )

    def test_a_panel(self):
        found = counts(self.USERS, ["default", "two", "empty"], at_millis=NOW_MILLIS)
        assert found["default"] == {
            "users": 5,
            "active": 4,
            "disabled": 0,
            "limited": 0,
            "expired": 0,
            "on_hold": 1,
            "near": 1,
            "over": 1,
            "unenforced": 1,
            "expiring": 1,
            "quota_bytes": 50,
            "marzban_bytes": 1,
            "external_bytes": 35,
            "used_bytes": 36,
        }
        assert found["two"]["expired"] == found["two"]["users"] == 1
        assert set(found["empty"].values()) == {0}

    def test_an_admin(self):
        found = of_admins(self.USERS, at_millis=NOW_MILLIS)
        assert {place: each["users"] for place, each in found.items()} == {
            ("default", "shop"): 4,
            ("default", "-"): 1,
            ("two", "shop"): 1,
        }

    def test_a_sum_that_no_integer_of_influxdb_holds_is_capped(self):
        users = [user(str(n), quota_bytes=2**62) for n in range(4)]
        assert counts(users, [], at_millis=NOW_MILLIS)["default"]["quota_bytes"] == 2**62


@pytest.mark.parametrize(
    ("measurement", "lines"),
    [
        (USER_COUNTS, list_lines([user()], [], at_millis=NOW_MILLIS)[:1]),
        (USER_LISTS, list_lines([user(ratio=0.9)], [], at_millis=NOW_MILLIS)[1:]),
        (RESELLER_USERS, reseller_lines([user()], at_millis=NOW_MILLIS)),
    ],
)
def test_points_have_the_names_and_types_of_the_schema(measurement, lines):
    for line in lines:
        series, fields, nanos = line.split(" ")
        name, *tags = series.split(",")
        assert (name, [each.split("=")[0] for each in tags]) == (
            measurement.name,
            [*measurement.tags],
        )
        found = dict(re.findall(r'(\w+)=("[^"]*"|[^,]+)', fields))
        assert {key: KINDS.get(value[-1], float) for key, value in found.items()} == dict(
            measurement.fields
        )
        assert nanos == f"{NOW_MILLIS}000000"


def test_an_admin_whose_name_cannot_be_written_does_not_stop_the_others():
    lines = reseller_lines([user(admin="a\nb"), user()], at_millis=NOW_MILLIS)
    assert [isinstance(each, Refused) for each in lines] == [True, False]


class TestWhenTheyAreDue:
    def place(self, name="alice"):
        return ("default", name)

    def lines(self, summaries):
        return [str(each) for each in summaries.work(at_millis=NOW_MILLIS)()]

    def test_nothing_before_all_users_were_seen_once(self):
        summaries = Summaries(["default"])
        summaries.begin_round()
        summaries.note({self.place(): user()})
        assert summaries.due_at_seconds == float("inf")
        summaries.end_round()
        assert summaries.due_at_seconds == -float("inf")

    def written(self):
        summaries = Summaries(["default"])
        summaries.note({self.place(): user(), self.place("bob"): user("bob")})
        summaries.end_round()
        summaries.written(at_seconds=100.0)
        summaries.begin_round()
        return summaries

    def test_resellers_once_a_round_and_the_rest_after_a_change_too(self):
        summaries = self.written()
        assert summaries.due_at_seconds == float("inf")
        summaries.note({self.place(): user(ratio=0.9)})
        assert summaries.due_at_seconds == 100 + APART_SECONDS
        assert not any("reseller_users" in each for each in self.lines(summaries))
        summaries.note({self.place("bob"): user("bob")})
        summaries.end_round()
        assert any("reseller_users" in each for each in self.lines(summaries))

    def test_the_same_again_is_no_change(self):
        summaries = self.written()
        summaries.note({self.place(): user()})
        assert summaries.due_at_seconds == float("inf")

    def test_a_deleted_user_is_counted_no_more(self):
        summaries = self.written()
        summaries.forget([self.place("bob"), self.place("never there")])
        assert summaries.due_at_seconds == 100 + APART_SECONDS
        assert "users=1i" in self.lines(summaries)[0]

    def test_one_who_is_missing_in_a_round_is_counted_no_more(self):
        summaries = self.written()
        summaries.note({self.place(): user()})
        summaries.end_round()
        assert "users=1i" in self.lines(summaries)[0]
