"""Names that were noted lately."""

from __future__ import annotations

from collector.runtime.recent import RecentNames


def test_a_name_is_news_once_until_it_was_not_noted_for_so_long():
    recent = RecentNames(kept_seconds=10)
    found = [recent.note("a", now_seconds=at) for at in (0, 1, 10, 19, 29, 30)]
    assert found == [True, False, False, False, True, False]
    assert recent.names(now_seconds=39) == ["a"]
    assert recent.names(now_seconds=40) == []


def test_of_too_many_those_noted_longest_ago_go():
    recent = RecentNames(most_names=2)
    for at, name in enumerate(["a", "b", "a", "c"]):
        recent.note(name, now_seconds=at)
    assert recent.names(now_seconds=5) == ["a", "c"]
