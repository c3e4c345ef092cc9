"""Counters → traffic: whatever is restarted, and whenever nobody looks, the sum is what was used."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from collector.agent.counters import Counter, Life, Reading, amount
from collector.agent.deltas import Baseline, advance


def reading(life=None, **users):
    counters = tuple(Counter(name, name, up, down) for name, (up, down) in users.items())
    return Reading(counters, life or Life())


def deltas(step):
    return {each.counter.name: (each.upload_bytes, each.download_bytes) for each in step.deltas}


def test_the_first_reading_says_where_to_begin():
    step = advance(None, reading(alice=(10, 20)))
    assert deltas(step) == {}
    assert step.known.baselines == {"alice": Baseline(10, 20)}


def test_the_first_reading_counts_where_that_is_asked_for():
    assert deltas(advance(None, reading(alice=(10, 20)), count_first=True)) == {"alice": (10, 20)}


def test_later_readings_bring_what_was_added():
    known = advance(None, reading(alice=(10, 20), bob=(1, 1))).known
    assert deltas(advance(known, reading(alice=(15, 20), bob=(1, 1)))) == {"alice": (5, 0)}


def test_a_lower_value_is_a_restart_and_counts_whole_each_direction_for_itself():
    known = advance(None, reading(alice=(100, 200))).known
    step = advance(known, reading(alice=(7, 250)))
    assert (deltas(step), step.restarts) == ({"alice": (7, 50)}, 1)


def test_a_counter_that_appears_after_the_first_reading_counts_whole():
    known = advance(None, reading(alice=(10, 20))).known
    assert deltas(advance(known, reading(alice=(10, 20), bob=(3, 4)))) == {"bob": (3, 4)}


def test_a_counter_that_is_away_for_a_while_is_compared_with_what_it_was():
    known = advance(None, reading(alice=(10, 20), bob=(5, 5))).known
    known = advance(known, reading(alice=(10, 20))).known
    assert deltas(advance(known, reading(bob=(6, 5)))) == {"bob": (1, 0)}


def test_a_source_that_says_it_began_anew_counts_whole_even_where_values_are_higher():
    first = reading(Life(ticks=500), alice=(10, 20), bob=(5, 5))
    known = advance(None, first).known
    step = advance(known, reading(Life(ticks=400), alice=(11, 30)))
    assert (deltas(step), step.restarts) == ({"alice": (11, 30)}, 1)
    known = advance(step.known, reading(Life(ticks=450), alice=(11, 30), bob=(6, 6))).known
    assert known.baselines["bob"] == Baseline(6, 6)
    other = advance(None, reading(Life(started="a"), alice=(1, 1))).known
    assert deltas(advance(other, reading(Life(started="b"), alice=(1, 2)))) == {"alice": (1, 2)}


def test_a_source_that_says_nothing_of_its_life_is_not_taken_for_new():
    known = advance(None, reading(Life(ticks=500, started="a"), alice=(10, 20))).known
    assert deltas(advance(known, reading(alice=(11, 20)))) == {"alice": (1, 0)}


def test_an_amount_is_a_whole_number_of_bytes_or_nothing():
    good = [(0, 0), ("12", 12), (3.0, 3), (2**62 - 1, 2**62 - 1), ("0", 0)]
    assert [amount(each) for each, _ in good] == [expected for _, expected in good]
    for bad in (
        -1,
        "-1",
        "",
        "1.5",
        1.5,
        True,
        None,
        float("nan"),
        2**62,
        "9" * 30,
        "\u0661",
        [],
        {},
    ):
        assert amount(bad) is None


class Server:
    """What a VPN server counts: per user, since it began."""

    def __init__(self, *, tells_its_life):
        self.tells_its_life = tells_its_life
        self.began = 0
        self.counters = {}

    def use(self, user, up, down):
        had = self.counters.get(user, (0, 0))
        self.counters[user] = (had[0] + up, had[1] + down)

    def restart(self):
        self.began += 1
        self.counters = {}

    def read(self):
        life = Life(started=str(self.began)) if self.tells_its_life else Life()
        return reading(life, **self.counters)


AMOUNTS = st.integers(0, 10**6)
USERS = st.sampled_from(["alice", "bob", "carol"])


class Counting(RuleBasedStateMachine):
    """A server that tells when it began; an agent that looks, fails to keep it, and looks again."""

    @initialize(count_first=st.booleans())
    def begin(self, count_first):
        self.server = Server(tells_its_life=True)
        self.count_first = count_first
        self.known = None
        self.sent = {}
        self.truth = {}
        self.unseen = {}

    @rule(user=USERS, up=AMOUNTS, down=AMOUNTS)
    def use(self, user, up, down):
        self.server.use(user, up, down)
        had = self.unseen.get(user, 0)
        self.unseen[user] = had + up + down

    @rule()
    def restart(self):
        """What nobody has looked at is gone with the server's memory."""
        self.server.restart()
        self.unseen = {}

    @rule(is_kept=st.booleans())
    def look(self, is_kept):
        step = advance(self.known, self.server.read(), count_first=self.count_first)
        if not is_kept:  # killed, or the disk was full: neither reports nor baselines are kept
            return
        if self.known is not None or self.count_first:
            for user, amount_bytes in self.unseen.items():
                self.truth[user] = self.truth.get(user, 0) + amount_bytes
        self.unseen = {}
        self.known = step.known
        for name, (up, down) in deltas(step).items():
            self.sent[name] = self.sent.get(name, 0) + up + down

    @invariant()
    def what_was_sent_is_what_was_used(self):
        positive = {user: amount for user, amount in self.truth.items() if amount}
        assert self.sent == positive


TestCounting = Counting.TestCase
TestCounting.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


@given(
    st.lists(st.tuples(USERS, AMOUNTS, AMOUNTS) | st.sampled_from(["restart", "look"]), max_size=60)
)
def test_a_server_that_tells_nothing_is_never_counted_for_more_than_was_used(events):
    server, known, used, sent = Server(tells_its_life=False), None, 0, 0
    for event in [*events, "look"]:
        if event == "restart":
            server.restart()
        elif event == "look":
            step = advance(known, server.read())
            known = step.known
            sent += sum(up + down for up, down in deltas(step).values())
        else:
            server.use(*event)
            used += event[1] + event[2]
        assert sent <= used
