"""Refused lines are found and set aside; a reason to wait stops everything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from collector.influx.delivery import Delivered, PageDelivery, Refused, deliver, merge
from collector.influx.outcome import Drop, Halt, Retry, Split, Stored


class Server:
    """Stores good lines, refuses bad ones and batches that are too large, as InfluxDB does."""

    def __init__(self, bad=(), *, most=10**9, stores_partially=False, away_after=10**9):
        self.bad, self.most, self.stores_partially = set(bad), most, stores_partially
        self.away_after = away_after
        self.stored: set[str] = set()
        self.requests = 0

    def write(self, lines):
        self.requests += 1
        if self.requests > self.away_after:
            return Retry("away")
        if len(lines) > self.most:
            return Split("413") if len(lines) > 1 else Drop("413")
        if not self.bad & set(lines):
            self.stored |= set(lines)
            return Stored()
        if self.stores_partially:
            self.stored |= set(lines) - self.bad
        are_all_bad = set(lines) <= self.bad
        return Drop("bad") if len(lines) == 1 or are_all_bad else Split("bad")


lines_and_bad = st.integers(0, 60).flatmap(
    lambda n: st.tuples(
        st.just([f"l{i}" for i in range(n)]), st.sets(st.integers(0, max(n - 1, 0)))
    )
)


@given(case=lines_and_bad, partially=st.booleans(), most=st.sampled_from([1, 2, 7, 1000]))
def test_every_line_is_stored_or_refused_and_never_both(case, partially, most):
    lines, bad_places = case
    bad = {lines[i] for i in bad_places if lines}
    server = Server(bad, most=most, stores_partially=partially)
    result = deliver(lines, server.write)
    assert isinstance(result, Delivered)
    assert sorted(each.line for each in result.refused) == sorted(bad)
    assert server.stored == set(lines) - bad


def test_one_bad_line_of_thousands_takes_few_requests():
    server = Server({"l1234"})
    result = deliver([f"l{i}" for i in range(5000)], server.write)
    assert result == Delivered((Refused("l1234", "bad"),))
    assert server.requests <= 2 * 13 + 1


def test_a_batch_that_is_refused_whole_takes_one_request():
    lines = [f"l{i}" for i in range(5000)]
    server = Server(lines)
    result = deliver(lines, server.write)
    assert isinstance(result, Delivered)
    assert len(result.refused) == 5000
    assert server.requests == 1


def test_an_outage_on_the_way_leaves_the_whole_batch_to_be_delivered_again():
    server = Server({"l3"}, away_after=2)
    lines = [f"l{i}" for i in range(8)]
    assert deliver(lines, server.write) == Retry("away")
    server.away_after = 10**9
    assert deliver(lines, server.write) == Delivered((Refused("l3", "bad"),))
    assert server.stored == set(lines) - {"l3"}


def test_a_halt_passes_through():
    assert deliver(["l"], lambda _: Halt("token")) == Halt("token")


def test_nothing_to_write_asks_nobody():
    server = Server()
    assert deliver([], server.write) == Delivered()
    assert server.requests == 0


def test_after_a_fault_no_further_request_of_a_page_is_sent():
    server = Server(away_after=1)
    delivery = PageDelivery(server.write)
    results = [delivery.deliver([f"l{n}"]) for n in range(4)]
    assert results == [Delivered(), Retry("away"), Retry("away"), Retry("away")]
    assert server.requests == 2
    assert merge(results) == Retry("away")


def test_a_page_has_the_refused_and_expired_lines_of_all_its_requests():
    refused = Refused("l1", "bad")
    assert merge([Delivered((refused,)), Delivered(expired=("l2",))]) == Delivered(
        (refused,), ("l2",)
    )
