"""When a push is a retry: across the borders of steps, restarts and clocks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from collector.sources.retries import MAX_REMEMBERED, RecentPushes, Seen, content_of, ids_of

WINDOW_MILLIS = 20_000


def test_a_push_is_named_by_its_reporter_its_node_and_its_every_byte():
    names = {
        content_of(reporter=reporter, node=node, body=body)
        for reporter in ("a", "ab")
        for node in ("vless/1", "vless/11", "b/vless/1")
        for body in (b"{}", b"{} ", b"")
    }
    assert len(names) == 18


@given(
    first_millis=st.integers(1_600_000_000_000, 1_600_000_100_000),
    after_millis=st.integers(0, 5 * WINDOW_MILLIS),
)
def test_within_a_window_the_first_id_is_found_and_after_it_the_new_id_is_another(
    first_millis, after_millis
):
    first, _ = ids_of("c", now_millis=first_millis, window_millis=WINDOW_MILLIS)
    now_millis = first_millis + after_millis
    later = ids_of("c", now_millis=now_millis, window_millis=WINDOW_MILLIS)
    if Seen(first, first_millis, WINDOW_MILLIS).is_within_window(now_millis):
        assert first in later
    else:
        assert first != later[0]


def test_a_clock_that_goes_back_makes_no_retry_a_new_push_within_a_window():
    seen = Seen("i", 1_000_000, WINDOW_MILLIS)
    assert seen.is_within_window(1_000_000 - WINDOW_MILLIS + 1)
    assert not seen.is_within_window(1_000_000 - WINDOW_MILLIS)


def test_pushes_are_remembered_past_their_window_and_forgotten_in_the_end():
    recent = RecentPushes()
    recent.note("a", Seen("i", 0, WINDOW_MILLIS), now_millis=0)
    recent.note("b", Seen("j", 39_999, WINDOW_MILLIS), now_millis=39_999)
    assert recent.find("a") is not None
    recent.note("c", Seen("k", 40_000, WINDOW_MILLIS), now_millis=40_000)
    assert recent.find("a") is None
    assert recent.find("b") is not None


def test_no_flood_of_pushes_fills_the_memory():
    recent = RecentPushes()
    for number in range(MAX_REMEMBERED + 5):
        recent.note(str(number), Seen("i", 0, WINDOW_MILLIS), now_millis=0)
    assert recent.find("4") is None
    assert recent.find("5") is not None
