"""Counters → traffic: whatever is restarted, and whenever nobody looks, the sum is what was used."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from collector.agent.errors import SourceError
from collector.agent.state.counters import Collections, Counter, Life, PollTime, Sample, amount
from collector.agent.state.deltas import Baseline, advance


def sample(life=None, **users):
    counters = tuple(Counter(name, name, up, down) for name, (up, down) in users.items())
    return Sample(counters, life or Life())


def deltas(step):
    return {each.counter.name: (each.upload_bytes, each.download_bytes) for each in step.deltas}


def test_the_first_reading_says_where_to_begin():
    step = advance(None, sample(alice=(10, 20)))
    assert deltas(step) == {}
    assert step.known.baselines == {"alice": Baseline(10, 20)}


def test_the_first_reading_counts_where_that_is_asked_for():
    assert deltas(advance(None, sample(alice=(10, 20)), count_first=True)) == {"alice": (10, 20)}


def test_later_readings_bring_what_was_added():
    known = advance(None, sample(alice=(10, 20), bob=(1, 1))).known
    assert deltas(advance(known, sample(alice=(15, 20), bob=(1, 1)))) == {"alice": (5, 0)}


@pytest.mark.parametrize("shown", [(7, 250), (250, 7), (257, 1), (0, 200)])
def test_a_counter_that_fell_in_one_direction_counts_whole_in_both(shown):
    known = advance(None, sample(alice=(100, 200), bob=(5, 5))).known
    step = advance(known, sample(alice=shown, bob=(6, 6)))
    assert (deltas(step), step.restarts) == ({"alice": shown, "bob": (1, 1)}, 1)


SUMS = (1000, 5000, 40)


@pytest.mark.parametrize("sums", [(300, 6000, 50), (1200, 2499, 50), (1200, 6000, 19)])
def test_a_sum_over_all_users_that_fell_far_proves_that_all_counters_began_at_zero(sums):
    """Even of users who have overtaken their baselines by then."""
    known = advance(None, sample(Life(sums=SUMS), alice=(900, 4900), bob=(100, 100))).known
    shown = {"alice": (200, 400), "bob": (100, 5600)}
    step = advance(known, sample(Life(sums=sums), **shown))
    assert (deltas(step), step.restarts, step.fallen) == (shown, 1, ())


def test_sums_that_fell_a_little_are_those_of_a_file_and_count_nothing_twice():
    """A crash puts counters back to what the file had, and not to zero."""
    known = advance(None, sample(Life(sums=SUMS), alice=(900, 4900), bob=(100, 100))).known
    restored = sample(Life(sums=(960, 4900, 39)), alice=(850, 4950), bob=(110, 100))
    step = advance(known, restored)
    assert (deltas(step), step.restarts) == ({"alice": (0, 50), "bob": (10, 0)}, 0)
    assert step.fallen == ("alice",)
    after = advance(step.known, sample(Life(sums=(970, 4900, 39)), alice=(860, 4950)))
    assert deltas(after) == {"alice": (10, 0)}


@pytest.mark.parametrize("sums", [SUMS, (1100, 5100, 41), ()])
def test_a_counter_that_fell_alone_counts_whole_where_no_sum_fell(sums):
    known = advance(None, sample(Life(sums=SUMS), alice=(900, 4900), bob=(100, 100))).known
    step = advance(known, sample(Life(sums=sums), alice=(7, 4000), bob=(101, 100)))
    assert (deltas(step), step.restarts) == ({"alice": (7, 4000), "bob": (1, 0)}, 1)


def process(life=None, polled=None, **users):
    """Return a sample of counters that live as long as their process."""
    return replace(sample(life, **users), is_of_one_process=True, polled=polled)


@pytest.mark.parametrize(
    "shown",
    [
        {"alice": (90, 300), "bob": (17_679, 161_229)},
        {"alice": (300, 0), "bob": (17_679, 161_229)},
        {"bob": (17_679, 161_229)},
    ],
    ids=["fell", "fell in one direction", "is missing"],
)
def test_a_counter_that_fell_or_is_missing_proves_that_its_process_began_anew(shown):
    known = advance(None, process(alice=(100, 200), bob=(10, 20))).known
    step = advance(known, process(**shown))
    assert (deltas(step), step.restarts) == (shown, 1)
    assert step.known.baselines.keys() == shown.keys()


def test_a_missing_counter_proves_nothing_while_a_row_could_not_be_parsed():
    known = advance(None, process(alice=(100, 200), bob=(10, 20))).known
    step = advance(known, replace(process(bob=(11, 20)), skipped=1))
    assert (deltas(step), step.restarts) == ({"bob": (1, 0)}, 0)


def test_a_counter_that_a_tool_reset_proves_nothing_while_a_large_one_is_unchanged():
    """Otherwise all that the others ever used would count once more."""
    known = advance(None, process(alice=(100, 0), bob=(10, 20), idle=(2**19, 2**19))).known
    step = advance(known, process(alice=(7, 0), bob=(30, 20), idle=(2**19, 2**19)))
    assert (deltas(step), step.restarts) == ({"alice": (7, 0), "bob": (20, 0)}, 1)
    step = advance(known, process(alice=(7, 0), bob=(30, 20), idle=(2**19, 2**19 + 1)))
    assert deltas(step)["bob"] == (30, 20)


@pytest.mark.parametrize(
    ("uptime_seconds", "counted"), [(27, (15, 25)), (28, (5, 5)), (10**6, (5, 5))]
)
def test_an_uptime_shorter_than_since_the_last_poll_is_a_new_life(uptime_seconds, counted):
    before, now = PollTime("boot", 100.0, 101.0), PollTime("boot", 131.0, 132.0)
    known = advance(None, process(Life(ticks=9), before, alice=(10, 20))).known
    life = Life(ticks=uptime_seconds, uptime_seconds=uptime_seconds)
    assert deltas(advance(known, process(life, now, alice=(15, 25)))) == {"alice": counted}


@pytest.mark.parametrize("polled", [None, PollTime("another boot", 131.0, 132.0)])
def test_an_uptime_proves_nothing_where_the_time_between_is_not_known(polled):
    before = PollTime("boot", 100.0, 101.0)
    known = advance(None, process(Life(ticks=9), before, alice=(10, 20))).known
    life = Life(ticks=10, uptime_seconds=10)
    assert deltas(advance(known, process(life, polled, alice=(15, 25)))) == {"alice": (5, 5)}


GC = 1_700_000_000_000_000_000


def collected(*ends, count=None, ticks=10**6):
    return Life(
        ticks=ticks,
        collections=Collections(
            len(ends) if count is None else count, ends[-1] if ends else 0, frozenset(ends)
        ),
    )


@pytest.mark.parametrize(
    ("before", "now", "is_new"),
    [
        (collected(GC), collected(GC, GC + 1), False),
        (collected(GC), collected(GC + 1, GC + 2), True),
        (collected(GC, GC + 1), collected(GC + 9), True),
        (collected(GC), collected(GC), False),
        (collected(GC), collected(GC + 5), True),
        (collected(), collected(GC), False),
        (collected(GC), collected(*range(GC + 1, GC + 257), count=400), False),
        (collected(GC), collected(GC, GC - 10**12), False),
    ],
    ids=[
        "one more",
        "the last one is not among them",
        "fewer",
        "the same",
        "as many, at another time",
        "none before",
        "too many since to tell",
        "the clock was set back",
    ],
)
def test_a_go_process_is_known_by_its_garbage_collections(before, now, is_new):
    known = advance(None, process(before, alice=(10, 20))).known
    step = advance(known, process(now, alice=(15, 25)))
    assert deltas(step) == {"alice": (15, 25) if is_new else (5, 5)}


def test_a_counter_that_appears_after_the_first_reading_counts_whole():
    known = advance(None, sample(alice=(10, 20))).known
    assert deltas(advance(known, sample(alice=(10, 20), bob=(3, 4)))) == {"bob": (3, 4)}


def test_a_counter_that_is_away_for_a_while_is_compared_with_what_it_was():
    known = advance(None, sample(alice=(10, 20), bob=(5, 5))).known
    known = advance(known, sample(alice=(10, 20))).known
    assert deltas(advance(known, sample(bob=(6, 5)))) == {"bob": (1, 0)}


def test_a_source_that_says_it_began_anew_counts_whole_even_where_values_are_higher():
    first = sample(Life(ticks=500), alice=(10, 20), bob=(5, 5))
    known = advance(None, first).known
    step = advance(known, sample(Life(ticks=400), alice=(11, 30)))
    assert (deltas(step), step.restarts) == ({"alice": (11, 30)}, 1)
    known = advance(step.known, sample(Life(ticks=450), alice=(11, 30), bob=(6, 6))).known
    assert known.baselines["bob"] == Baseline(6, 6)
    other = advance(None, sample(Life(started="a"), alice=(1, 1))).known
    assert deltas(advance(other, sample(Life(started="b"), alice=(1, 2)))) == {"alice": (1, 2)}


@pytest.mark.parametrize("life", [Life(started="a"), Life(ticks=500)])
def test_a_source_that_no_longer_says_when_it_began_is_refused_and_loses_nothing(life):
    known = advance(None, sample(life, alice=(10, 20))).known
    with pytest.raises(SourceError, match="no longer tells its start time"):
        advance(known, sample(alice=(11, 20)))
    assert deltas(advance(known, sample(life, alice=(12, 20)))) == {"alice": (2, 0)}


def test_a_counter_that_falls_while_its_source_says_it_runs_on_keeps_its_highest_value():
    life = Life(started="a")
    known, sent, fallen = None, 0, []
    for value in (0, 1000, 999, 1000, 998, 1005):
        step = advance(known, sample(life, alice=(value, 0), bob=(5, 5)))
        known = step.known
        sent += sum(up for up, _ in deltas(step).values())
        fallen.append(step.fallen)
        assert step.restarts == 0
    assert sent == 1005
    assert fallen == [(), (), ("alice",), (), ("alice",), ()]
    anew = advance(known, sample(Life(started="b"), alice=(7, 0)))
    assert (deltas(anew), anew.restarts, anew.fallen) == ({"alice": (7, 0)}, 1, ())


def test_each_direction_of_a_counter_that_fell_is_held_for_itself():
    life = Life(started="a")
    known = advance(None, sample(life, alice=(100, 200))).known
    step = advance(known, sample(life, alice=(90, 250)))
    assert deltas(step) == {"alice": (0, 50)}
    assert step.known.baselines["alice"] == Baseline(100, 250)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2026-11-24 10:00:00", "2026-11-24 10:00:01"),
        ("2026-11-24T10:00:00Z", "2026-11-24T09:59:58Z"),
        ("1795514400", "1795514401"),
        ("1795514400.25", "1795514399"),
    ],
)
def test_a_start_that_is_worked_out_anew_each_time_may_waver_by_two_seconds(one, other):
    known = advance(None, sample(Life(started=one), alice=(1000, 0))).known
    known = advance(known, sample(Life(started=other), alice=(1001, 0))).known
    step = advance(known, sample(Life(started=one), alice=(1005, 0)))
    assert (deltas(step), step.restarts) == ({"alice": (4, 0)}, 0)


@pytest.mark.parametrize(("one", "other"), [("7", "8"), ("1795514400", "1795514410"), ("a", "b")])
def test_other_starts_are_other_lives(one, other):
    known = advance(None, sample(Life(started=one), alice=(1000, 0))).known
    assert deltas(advance(known, sample(Life(started=other), alice=(1, 0)))) == {"alice": (1, 0)}


def test_a_start_that_was_left_behind_does_not_come_back():
    """Two servers behind one address would each be counted whole at each change."""
    known = advance(None, sample(Life(started="a"), alice=(1000, 0))).known
    known = advance(known, sample(Life(started="b"), alice=(900, 0))).known
    with pytest.raises(SourceError, match="that of a run before a restart"):
        advance(known, sample(Life(started="a"), alice=(1001, 0)))
    assert deltas(advance(known, sample(Life(started="b"), alice=(902, 0)))) == {"alice": (2, 0)}
    assert deltas(advance(known, sample(Life(started="c"), alice=(3, 0)))) == {"alice": (3, 0)}


def test_counters_that_another_tool_resets_count_whole_while_the_source_runs_on():
    """Ticks prove a new life where they fall, and no old one where they do not."""
    known = advance(None, sample(Life(ticks=500), alice=(100, 0))).known
    step = advance(known, sample(Life(ticks=600), alice=(7, 0)))
    assert (deltas(step), step.restarts, step.fallen) == ({"alice": (7, 0)}, 1, ())


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
        return sample(life, **self.counters)


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
TestCounting.settings = settings(max_examples=150, stateful_step_count=30)


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


@given(
    st.lists(
        st.tuples(USERS, st.integers(0, 9), st.integers(0, 9))
        | st.sampled_from(["restart", "poll"]),
        max_size=60,
    )
)
@example([("alice", 1, 9), ("bob", 1, 1), "poll", "restart", ("bob", 8, 8), "poll"])
def test_a_process_counts_exactly_what_its_counters_can_show(events):
    """Lost is what was used after the last poll of a run and, where no counter fell or is missing,
    the values of before."""
    server, known = Server(tells_its_life=False), advance(None, process()).known
    shown, last_run, sent, expected, used = {}, 0, 0, 0, 0
    for event in [*events, "poll"]:
        if event == "restart":
            server.restart()
        elif event == "poll":
            step = advance(known, replace(server.read(), is_of_one_process=True))
            known = step.known
            sent += sum(up + down for up, down in deltas(step).values())
            is_shown = any(
                value < had
                for user, pair in shown.items()
                for value, had in zip(server.counters.get(user, (0, 0)), pair, strict=True)
            )
            base = {} if is_shown else shown
            expected += total(server.counters) - total(base)
            assert is_shown <= (server.began != last_run)
            shown, last_run = dict(server.counters), server.began
        else:
            server.use(*event)
            used += event[1] + event[2]
        assert sent == expected <= used


def total(counters):
    return sum(up + down for up, down in counters.values())


@given(st.lists(st.tuples(AMOUNTS, AMOUNTS), min_size=1, max_size=40))
def test_readings_that_are_too_low_within_a_life_delay_and_never_add(events):
    life, used, sent, known = (
        Life(started="a"),
        0,
        0,
        advance(None, sample(Life(started="a"))).known,
    )
    for used_bytes, misread_bytes in [*events, (0, 0)]:
        used += used_bytes
        step = advance(known, sample(life, alice=(max(0, used - misread_bytes), 0)))
        known = step.known
        sent += sum(up for up, _ in deltas(step).values())
        assert sent <= used
    assert sent == used
