"""When a name without a user is asked for again, and how many names go into a query."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marzban_bridge.panels.dialect import MARZBAN, PASARGUARD
from marzban_bridge.panels.http.queries import NAMES_PER_QUERY, QUERY_BYTES, queries
from marzban_bridge.reconcile.unknown_names import LONGEST_PAUSE, UnknownNames
from tests.support.bridge.bridge_builders import NOW


def asked_in(unknown, hours, *, step_seconds=60):
    """Return in how many of the passes a name is asked for that stays unknown."""
    count = 0
    for number in range(hours * 3600 // step_seconds):
        now = NOW + timedelta(seconds=number * step_seconds)
        if unknown.is_due("bob", now=now):
            count += 1
            unknown.note("bob", now=now)
    return count


def test_pauses_grow_to_an_hour():
    assert asked_in(UnknownNames(pass_seconds=60), 24) <= 32
    unknown = UnknownNames(pass_seconds=60)
    asked_in(unknown, 3)
    last = NOW + timedelta(hours=3)
    assert any(unknown.is_due("bob", now=last + each * LONGEST_PAUSE / 4) for each in range(5))


def test_a_name_that_was_just_unknown_is_asked_for_with_the_next_two_passes():
    unknown = UnknownNames(pass_seconds=60)
    assert unknown.is_due("bob", now=NOW)
    unknown.note("bob", now=NOW)
    assert unknown.is_due("bob", now=NOW + timedelta(seconds=1))
    unknown.note("bob", now=NOW + timedelta(seconds=1))
    assert not unknown.is_due("bob", now=NOW + timedelta(seconds=59))
    assert unknown.is_due("bob", now=NOW + timedelta(seconds=61))


def test_a_report_has_it_asked_for_and_not_searched_for_and_a_webhook_has_both():
    unknown = UnknownNames(pass_seconds=60)
    for _ in range(3):
        unknown.note("bob", now=NOW)
    assert not unknown.is_due("bob", now=NOW)
    unknown.reported(["bob"])
    assert unknown.is_due("bob", now=NOW)
    assert not unknown.is_search_due("bob", now=NOW)
    unknown.note("bob", now=NOW)
    assert not unknown.is_due("bob", now=NOW)
    unknown.announced(["bob"])
    assert unknown.is_search_due("bob", now=NOW)


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=255), max_size=120))
def test_queries_have_all_names_in_order_and_are_short(names):
    found = list(queries(names))
    assert [name for query in found for name in query] == names
    for query in found:
        assert len(query) <= NAMES_PER_QUERY
        encoded = sum(len("&username=") + len(_quoted(name)) for name in query)
        assert len(query) == 1 or encoded <= QUERY_BYTES


def _quoted(name):
    return "".join(
        each
        if each.isascii() and (each.isalnum() or each in "_.-~")
        else "%00" * len(each.encode())
        for each in name
    )


@pytest.mark.parametrize("name", ["bob", "Bob_1", "a" * 32, "bob.smith@example", "abc-def"])
def test_names_that_panels_give(name):
    assert MARZBAN.can_name_user(name)
    assert PASARGUARD.can_name_user(name)


@pytest.mark.parametrize(
    "name", ["", "ab", "a b", "bob ", "Зоя", "a" * 256, "bob/x", "bob\n", "🦊🦊🦊", "%00%00%00"]
)
def test_names_that_no_panel_gives(name):
    assert not MARZBAN.can_name_user(name)
    assert not PASARGUARD.can_name_user(name)


def test_names_of_33_are_pasarguards_alone():
    assert PASARGUARD.can_name_user("a" * 33)
    assert not MARZBAN.can_name_user("a" * 33)
