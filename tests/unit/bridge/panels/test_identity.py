"""Are two configured panels one and the same?"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from marzban_bridge.panels.identity import (
    Entry,
    PanelUsers,
    UserMark,
    have_same_users,
    is_one_panel,
    share_a_user,
    superfluous,
    text_of_one_panel,
)

CREATED_AT = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)


def mark(number, *, credentials="", created_at=None):
    made_at = created_at or CREATED_AT + timedelta(minutes=number)
    return UserMark(created_at=made_at, credentials=credentials or f"made for {number}")


def users(*numbers, lifetime=100):
    return PanelUsers(
        total=len(numbers),
        marks={f"user{number}": mark(number) for number in numbers},
        lifetime_bytes={f"user{number}": lifetime for number in numbers},
    )


def test_the_same_users_are_one_panels_though_one_was_created_or_deleted_in_between():
    assert have_same_users(users(1, 2, 3).marks, users(1, 2, 3).marks)
    assert have_same_users(users(1, 2, 3).marks, users(2, 3, 4).marks)
    assert have_same_users(users(1).marks, users(1).marks)


@pytest.mark.parametrize(
    "other",
    [
        {},
        users(7, 8).marks,
        {"user1": mark(1, created_at=CREATED_AT)},
        {"user1": mark(1, credentials="another panel's")},
        {**users(1, 2).marks, "user3": mark(3, credentials="another panel's")},
    ],
)
def test_users_that_only_are_called_alike_are_not_one_panels(other):
    assert not have_same_users(users(1, 2, 3).marks, other)
    assert not share_a_user(users(1, 2, 3).marks, other)


def test_two_panels_without_users_are_not_taken_for_one():
    empty = PanelUsers(total=0)
    assert not share_a_user(empty.marks, empty.marks)
    assert not is_one_panel(empty, empty, empty)


def test_a_panel_that_counts_on_while_it_is_read_is_one():
    assert is_one_panel(users(1, 2), users(1, 2, lifetime=110), users(1, 2, lifetime=120))
    assert is_one_panel(users(1, 2), users(1, 2, 3), users(1, 2, 3))


@pytest.mark.parametrize("lifetime", [99, 121])
def test_a_copy_on_which_something_else_was_used_is_another_panel(lifetime):
    copy = users(1, 2, lifetime=110)
    copy = replace(copy, lifetime_bytes=copy.lifetime_bytes | {"user2": lifetime})
    assert not is_one_panel(users(1, 2), copy, users(1, 2, lifetime=120))


def test_a_copy_with_another_number_of_users_is_another_panel():
    assert not is_one_panel(users(1, 2, 3), users(1, 2, 3, 4), users(1, 2, 3))


ONE = Entry(name="one", place=0, accounts=5, is_as_before=True)
TWO = Entry(name="two", place=1, accounts=5, is_as_before=True)


@pytest.mark.parametrize(
    ("one", "two", "left"),
    [
        (ONE, TWO, "two"),
        (replace(ONE, accounts=0), TWO, "one"),
        (replace(ONE, accounts=0), replace(TWO, accounts=0), "two"),
        (replace(ONE, is_as_before=False), TWO, "one"),
        (ONE, replace(TWO, is_as_before=False), "two"),
        (replace(ONE, accounts=0), replace(TWO, is_as_before=False), "one"),
    ],
)
def test_the_entry_that_came_to_the_panel_later_is_left_alone(one, two, left):
    assert superfluous(one, two) == superfluous(two, one) == left


def test_the_text_names_both_entries_and_what_to_do():
    text = text_of_one_panel("default", "two")
    assert "panels default and two are one panel" in text
    assert "take the table of two out" in text
    assert "panels apart default two" in text
    assert "set MARZBAN_URL to its own address" in text_of_one_panel("two", "default")
