"""How many servers a sender may name in a day."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from collector.reports.report import DAY_MILLIS
from collector.reports.server_bounds import SHARE, ServerBounds
from tests.support.collector.ledgers import NOON_MILLIS, report


def of(*servers, **changes):
    return [report(server=server, **changes) for server in servers]


def places(reports):
    return [(each.server, each.port, each.protocol) for each in reports]


def servers(bounds, *names, at=NOON_MILLIS, sender="s"):
    reports, moved = bounds.bound(sender, of(*names), now_millis=at)
    found = [each.server for each in reports]
    assert moved == found.count("other") - names.count("other")
    return found


def test_beyond_the_bound_a_report_is_counted_under_other_and_else_as_it_was():
    bounds = ServerBounds(3)
    sent = of("a", "b", "a", "c", "d", "b", "e", up=7, billed=70, key="k")
    reports, moved = bounds.bound("s", sent, now_millis=NOON_MILLIS)
    assert [each.server for each in reports] == ["a", "b", "a", "c", "other", "b", "other"]
    assert moved == 2
    assert places(reports)[4] == ("other", 0, "unknown")
    assert [(r.upload_bytes, r.billed_bytes, r.report_key) for r in reports] == [
        (r.upload_bytes, r.billed_bytes, r.report_key) for r in sent
    ]


def test_a_port_and_a_protocol_make_another():
    bounds = ServerBounds(2)
    sent = [report(), report(port=1), report(protocol="x"), report()]
    reports, moved = bounds.bound("s", sent, now_millis=NOON_MILLIS)
    assert moved == 1
    assert places(reports) == [
        ("de-1", 443, "vless"), ("de-1", 1, "vless"), ("other", 0, "unknown"), ("de-1", 443, "vless"),
    ]  # fmt: skip


def test_each_sender_and_each_day_has_a_bound_of_its_own():
    bounds = ServerBounds(2)
    assert servers(bounds, "a", "b", "c") == ["a", "b", "other"]
    assert servers(bounds, "c", sender="t") == ["c"]
    assert servers(bounds, "b", "d") == ["b", "other"]
    assert servers(bounds, "c", "d", "a", at=NOON_MILLIS + DAY_MILLIS) == ["c", "d", "other"]


def test_what_is_under_other_already_takes_no_place():
    bounds = ServerBounds(1)
    other = report(server="other", port=0, protocol="unknown")
    sent = [other, report(server="a"), other, report(server="b")]
    reports, moved = bounds.bound("s", sent, now_millis=NOON_MILLIS)
    assert ([each.server for each in reports], moved) == (["other", "a", "other", "other"], 1)


def test_the_ledger_is_read_before_a_share_is_new_and_not_for_known_ones():
    bounds = ServerBounds(3 * SHARE)
    first = of("a", "b", "c")
    assert not bounds.must_read("s", first, now_millis=NOON_MILLIS)
    bounds.bound("s", first, now_millis=NOON_MILLIS)
    assert not bounds.must_read("s", first, now_millis=NOON_MILLIS)
    assert bounds.must_read("s", of("d"), now_millis=NOON_MILLIS)
    stored = [(f"x{n}", 1, "y") for n in range(3 * SHARE - 4)]
    bounds.note_read("s", [*stored, ("other", 0, "unknown")], now_millis=NOON_MILLIS)
    assert servers(bounds, "d", "e", "a") == ["d", "other", "a"]
    assert not bounds.must_read("s", of("f", "g", "h", "i"), now_millis=NOON_MILLIS)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 99), st.booleans()), max_size=300))
def test_several_collectors_and_restarts_let_a_share_more_through_each_at_most(requests):
    """As decision 0017 says: the bound, and for every collector and restart a part in SHARE."""
    most, restarts, stored = 2 * SHARE, 0, set()
    collectors = [ServerBounds(most) for _ in range(3)]
    for number, server, restarts_now in requests:
        if restarts_now:
            collectors[number] = ServerBounds(most)
            restarts += 1
        bounds, sent = collectors[number], of(str(server))
        if bounds.must_read("s", sent, now_millis=NOON_MILLIS):
            bounds.note_read("s", stored, now_millis=NOON_MILLIS)
        stored.update(places(bounds.bound("s", sent, now_millis=NOON_MILLIS)[0]))
    assert len(stored - {("other", 0, "unknown")}) <= most + (3 + restarts) * (most // SHARE)
