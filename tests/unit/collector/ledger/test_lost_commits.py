"""What a collector finds missing in a shared ledger, as tables."""

from __future__ import annotations

import pytest

from collector.ledger import WriterRun
from collector.ledger.lost_commits import (
    KEPT_MILLIS,
    MAX_GROUPS,
    Losses,
    OwnGroup,
    OwnGroups,
    shared_seq,
    went_back,
)


@pytest.mark.parametrize(
    ("known", "seq", "token_then", "is_so"),
    [
        (WriterRun(30, "a"), 30, "a", False),
        (WriterRun(30, "a"), 40, "a", False),
        (WriterRun(30, "a"), 20, "a", True),
        (WriterRun(30, "a"), 40, "b", True),  # it has grown again, by other reports
        (WriterRun(30, "a"), 40, None, False),  # forgotten, or numbered by an earlier version
    ],
)
def test_a_ledger_went_back_that_is_shorter_or_has_another_run(known, seq, token_then, is_so):
    assert went_back(known, seq=seq, token_then=token_then) is is_so


@pytest.mark.parametrize(
    ("known", "runs", "seq", "shared"),
    [
        ("a", [WriterRun(0, "a")], 20, 20),
        ("a", [WriterRun(0, "a"), WriterRun(20, "b")], 90, 20),
        ("ab", [WriterRun(0, "a"), WriterRun(20, "c")], 90, 20),
        ("ab", [WriterRun(0, "a"), WriterRun(10, "b")], 15, 15),
        ("b", [WriterRun(0, "z")], 90, 0),
    ],
)
def test_what_is_shared_ends_where_another_run_begins(known, runs, seq, shared):
    assert shared_seq(known, runs, seq=seq) == shared


def test_groups_that_are_not_found_are_told_once():
    groups, losses = OwnGroups(), Losses()
    for number in range(3):
        groups.note(OwnGroup(number, 10 + number, 1_000 * number))
    losses.add_groups(groups.take_missing(groups.ids, {0}))
    assert (losses.reports, groups.ids) == (23, [0])
    assert "23 reports that this collector acknowledged, from 1970-01-01 00:00:01 to" in losses.text
    losses.add_groups(groups.take_missing(groups.ids, {0}))
    assert losses.reports == 23
    losses.add_range(shared=20, known=30)
    assert "(numbers 21 to 30; 23 reports" in losses.text


def test_one_that_was_stored_while_others_were_looked_for_is_not_missing():
    groups = OwnGroups()
    groups.note(OwnGroup(1, 1, 0))
    asked = groups.ids
    groups.note(OwnGroup(2, 1, 0))
    assert groups.take_missing(asked, {1}) == []


def test_groups_that_may_be_purged_and_too_many_of_them_are_forgotten():
    groups = OwnGroups()
    groups.note(OwnGroup(1, 1, 0))
    groups.note(OwnGroup(2, 1, KEPT_MILLIS))
    assert groups.ids == [1, 2]
    groups.note(OwnGroup(3, 1, KEPT_MILLIS + 1))
    assert groups.ids == [2, 3]
    for number in range(MAX_GROUPS):
        groups.note(OwnGroup(10 + number, 1, KEPT_MILLIS + 1))
    assert len(groups.ids) == MAX_GROUPS


def test_nothing_lost_is_nothing_to_tell():
    losses = Losses()
    losses.add_groups([])
    assert losses.text is None
