"""When a quota is used up at the rate of the last week, and when nothing can be said of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from marzban_bridge.panels.users import ResetStrategy, Status
from marzban_bridge.quota.forecasts.forecast import FOR_EVER, days_to_limit
from marzban_bridge.quota.forecasts.marks import WEEK, bytes_per_day, marked
from marzban_bridge.quota.usage import UsageMark
from tests.support.bridge.bridge_builders import NOW, account, as_reported, gib, panel_user

DAY = timedelta(days=1)


def watched(*, days=7.0, used=gib(7), **fields):
    """An account of 10 GiB that used this much outside in the last days, at an even rate."""
    mark = UsageMark(at=NOW - days * DAY, total_bytes=0)
    user = panel_user(**{"data_limit_bytes": gib(10)} | fields.pop("user", {}))
    return account(user, **{"usage_marks": (mark,)} | fields), as_reported(used)


def forecast(*args, **kwargs):
    held, totals = watched(*args, **kwargs)
    return days_to_limit(held, totals, now=NOW)


class TestWhen:
    def test_what_is_left_lasts_as_long_as_the_rate_says(self):
        assert forecast() == pytest.approx(3)

    def test_panel_and_external_traffic_both_count(self):
        user = {"used_bytes": gib(1), "data_limit_bytes": gib(3)}
        assert forecast(user=user, used=gib(6)) == pytest.approx(3)

    def test_a_user_over_the_limit_is_there(self):
        assert forecast(used=gib(11)) == 0

    def test_a_user_cut_off_at_the_limit_is_there(self):
        assert forecast(used=gib(11), user={"status": Status.LIMITED}) == 0

    def test_after_a_reset_the_rate_is_the_old_one_and_the_quota_new(self):
        assert forecast(baseline_bytes=gib(7)) == pytest.approx(10)

    def test_less_than_a_week_is_taken_as_it_is(self):
        assert forecast(days=2, used=gib(8)) == pytest.approx(0.5)


class TestNoForecast:
    def test_an_unlimited_user(self):
        assert forecast(quota_bytes=None) is None

    def test_nothing_used_in_the_last_week(self):
        held, totals = watched()
        held = replace(held, usage_marks=(UsageMark(at=NOW - WEEK, total_bytes=gib(7)),))
        assert days_to_limit(held, totals, now=NOW) is None

    def test_a_user_who_is_watched_for_less_than_a_day(self):
        assert forecast(days=0.9) is None
        assert forecast(days=1) is not None

    def test_a_user_who_was_never_marked(self):
        assert forecast(usage_marks=()) is None

    @pytest.mark.parametrize("status", [Status.DISABLED, Status.EXPIRED, Status.ON_HOLD])
    def test_a_user_who_can_use_nothing(self, status):
        assert forecast(user={"status": status}) is None

    def test_a_reset_that_is_due_before(self):
        user = {"reset_strategy": ResetStrategy.WEEK}
        assert forecast(user=user, period_started_at=NOW - 5 * DAY) is None
        assert forecast(user=user, period_started_at=NOW - 3 * DAY) == pytest.approx(3)

    def test_an_end_of_the_users_time_before(self):
        def ending(days):
            return {"expire": int((NOW + days * DAY).timestamp())}

        assert forecast(user=ending(2)) is None
        assert forecast(user=ending(4)) == pytest.approx(3)

    def test_an_end_that_no_calendar_has(self):
        assert forecast(user={"expire": FOR_EVER}) == pytest.approx(3)

    def test_a_quota_that_lasts_for_decades(self):
        assert forecast(used=1) is None

    def test_less_used_in_all_than_a_week_ago(self):
        held, _ = watched()
        held = replace(held, usage_marks=(UsageMark(at=NOW - WEEK, total_bytes=gib(9)),))
        assert bytes_per_day(held, as_reported(gib(7)), now=NOW) == 0


class TestMarks:
    def test_one_a_day_and_one_of_a_week_ago(self):
        held = account()
        for hours in range(0, 24 * 30, 5):
            held = marked(held, as_reported(hours), now=NOW + timedelta(hours=hours))
        now = NOW + timedelta(hours=hours)
        ages = [(now - each.at) / DAY for each in held.usage_marks]
        assert 7 <= ages[0] < 8.5
        assert ages[1] < 7
        assert len(ages) == len({each.at.date() for each in held.usage_marks}) <= 9
        assert bytes_per_day(held, as_reported(hours), now=now) == pytest.approx(24)

    def test_within_a_day_nothing_changes(self):
        held = marked(account(), as_reported(1), now=NOW)
        assert marked(held, as_reported(5), now=NOW + timedelta(minutes=1)) is held

    def test_a_reset_leaves_them(self):
        held = marked(account(panel_user(used_bytes=gib(2))), as_reported(0), now=NOW)
        after = replace(held, sighting=replace(held.sighting, used_bytes=0))
        assert len(marked(after, as_reported(0), now=NOW + DAY).usage_marks) == 2

    def test_a_sum_that_went_back_begins_them_anew(self):
        held = marked(account(), as_reported(gib(5)), now=NOW)
        after = marked(held, as_reported(gib(4)), now=NOW + DAY)
        assert after.usage_marks == (UsageMark(at=NOW + DAY, total_bytes=gib(4)),)

    def test_a_clock_that_went_back_begins_them_anew(self):
        held = marked(account(), as_reported(1), now=NOW)
        assert marked(held, as_reported(1), now=NOW - DAY).usage_marks[0].at == NOW - DAY
