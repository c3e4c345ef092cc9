"""A look at a source: baselines and reports are kept together, and a name decides whose they are."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace

import pytest

from collector.agent.config import settings as config
from collector.agent.errors import SourceError
from collector.agent.polling import absorb, gain
from collector.agent.state.counters import Collections, Counter, Life, PollTime, Sample
from collector.agent.state.state import State
from collector.client.errors import SpoolError, SpoolFullError
from collector.client.spool.spool import REPORTS, Spool

HEAD = '[collector]\nurl = "http://c"\nkey = "rk_k"\n[agent]\nserver = "de-1"\n[[source]]\n'


def source(text='kind = "xray-vars"', name="x"):
    (only,) = config.parse(f'{HEAD}name = "{name}"\n{text}', read_file=lambda _: "").sources
    return only


def sample(life=None, **users):
    return Sample(tuple(Counter(u, u, up, 0) for u, up in users.items()), life or Life())


@pytest.fixture
def state(tmp_path):
    spool = Spool(tmp_path / "state", max_bytes=10_000)
    yield State(spool)
    spool.close()


def queued(state):
    items = state.spool.first(REPORTS, most_items=1000, most_bytes=10**9)
    return [
        (w["user_token"], w["bytes_uploaded"]) for w in (json.loads(each.body) for each in items)
    ]


def test_reports_carry_the_source_s_labels_and_an_id_of_their_own(state):
    where = source('kind = "wireguard"\nport = 51820')
    absorb(where, state, sample(alice=1, bob=1))
    absorb(where, state, sample(alice=3, bob=4))
    items = state.spool.first(REPORTS, most_items=10, most_bytes=10**6)
    wire = json.loads(items[0].body)
    assert (wire["server"], wire["port"], wire["protocol"]) == ("de-1", 51820, "wireguard")
    assert len({each.item_id for each in items}) == 2


def test_to_work_out_what_would_be_sent_changes_nothing(state):
    absorb(source(), state, sample(alice=1))
    for _ in range(2):
        assert [each.upload_bytes for each in gain(source(), state, sample(alice=5)).reports] == [4]
    assert queued(state) == []


def test_whose_counters_a_first_look_shows_is_known_though_nothing_is_sent_yet(state):
    where = source('kind = "xray-vars"\n[source.users]\ntable = { a1 = "alice", a2 = "alice" }')
    first = gain(where, state, sample(a1=1, a2=2, b=3))
    assert (first.usernames, first.unmapped_names, first.reports) == (("alice",), ("b",), ())


def test_if_the_spool_is_full_the_baselines_stay_too(state):
    where = source()
    users = {f"user{n}": 1 for n in range(500)}
    absorb(where, state, sample(**users))
    more = dict.fromkeys(users, 2)
    with pytest.raises(SpoolFullError):
        absorb(where, state, sample(**more))
    assert queued(state) == []
    few = dict.fromkeys(list(users)[:10], 2)
    absorb(where, state, sample(**few))
    assert len(queued(state)) == 10


def test_if_the_baselines_cannot_be_kept_nothing_is_queued(state, monkeypatch):
    where = source()
    absorb(where, state, sample(alice=1))

    def fail(*_):
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patched:
        patched.setattr(State, "keep", fail)
        with pytest.raises(SpoolError, match="disk I/O error"):
            absorb(where, state, sample(alice=5))
    assert queued(state) == []
    absorb(where, state, sample(alice=6))
    assert queued(state) == [("alice", 5)]


def test_a_source_that_is_another_one_now_begins_anew(state):
    absorb(source(), state, sample(alice=1))
    other = source('kind = "xray-vars"\nurl = "http://127.0.0.1:5/debug/vars"')
    assert absorb(other, state, sample(alice=10**12)).is_first
    assert queued(state) == []
    assert absorb(other, state, sample(alice=10**12 + 1)).reports[0].upload_bytes == 1


def test_sources_keep_to_themselves(state):
    absorb(source(name="a"), state, sample(alice=10))
    absorb(source(name="b"), state, sample(alice=1))
    absorb(source(name="b"), state, sample(alice=3))
    absorb(source(name="a"), state, sample(alice=11))
    assert queued(state) == [("alice", 2), ("alice", 1)]


def test_a_life_is_remembered(state):
    absorb(source(), state, sample(Life(ticks=100), alice=1, gone=9))
    absorb(source(), state, sample(Life(ticks=50), alice=2))
    assert queued(state) == [("alice", 2)]
    absorb(source(), state, sample(Life(ticks=60), alice=2, gone=10))
    assert queued(state) == [("alice", 2), ("gone", 10)]


def test_names_that_are_nobody_s_are_told_and_not_counted_and_not_counted_later(state):
    strict = source('kind = "xray-vars"\n[source.users]\ntable = { a = "alice" }')
    absorb(strict, state, sample(a=1, b=1))
    absorb(strict, state, sample(a=2, b=1000))
    assert queued(state) == [("alice", 1)]
    (status,) = state.statuses()
    assert (status.unmapped, status.unmapped_names) == (1, ("b",))
    wider = source('kind = "xray-vars"\n[source.users]\ntable = { a = "alice", b = "bob" }')
    absorb(wider, state, sample(a=2, b=1001))
    assert queued(state) == [("alice", 1), ("bob", 1)]


@pytest.mark.parametrize("name", ["x" * 300, "line\nbreak", "back\\", ""])
def test_a_name_no_collector_takes_stops_nobody_else(state, name):
    absorb(source(), state, Sample((Counter("n", name, 0, 0), Counter("a", "alice", 0, 0))))
    absorb(source(), state, Sample((Counter("n", name, 5, 0), Counter("a", "alice", 5, 0))))
    assert queued(state) == [("alice", 5)]
    assert state.statuses()[0].unmapped == 1


def test_a_problem_is_remembered_until_the_next_good_reading(state):
    state.note_problem("x", "no answer")
    assert state.statuses()[0].problem == "no answer"
    absorb(source(), state, sample(alice=1))
    assert state.statuses()[0].problem is None


@pytest.mark.parametrize(
    "rows",
    [
        [{"user": "\ud800", "upload_bytes": 1}],
        [{"user": "alice", "counter": "\udfff", "upload_bytes": 1}],
        [{"user": "alice", "upload_bytes": 2**62 - 1}] * 3,
        [{"user": "\0", "upload_bytes": 1}],
        [{"user": "a" * 10_000, "upload_bytes": 1}],
    ],
)
def test_no_row_that_a_source_prints_stops_the_rows_beside_it(state, rows):
    where = source('kind = "command"\ncommand = ["x"]\ncount_first = true')
    body = json.dumps([*rows, {"user": "bob", "upload_bytes": 7}]).encode()
    absorb(where, state, where.parse(body))
    assert ("bob", 7) in queued(state)


def test_what_fell_while_its_source_runs_on_is_remembered_and_counted_once(state):
    where, life = source(), Life(started="a")
    for value in (0, 1000, 999, 1005):
        absorb(where, state, sample(life, alice=value))
        fallen = state.statuses()[0].fallen_names
        assert fallen == (("alice",) if value == 999 else ())
    assert sum(amount_bytes for _, amount_bytes in queued(state)) == 1005
    absorb(where, state, sample(Life(started="b"), alice=1))
    with pytest.raises(SourceError):
        absorb(where, state, sample(life, alice=2000))


def test_a_state_of_before_is_brought_forward_with_its_baselines(tmp_path):
    path = tmp_path / "old"
    spool = Spool(path)
    with spool.transaction() as db:
        db.execute(
            "CREATE TABLE source (name TEXT PRIMARY KEY, fingerprint TEXT NOT NULL DEFAULT '', "
            "started TEXT, ticks INTEGER, position TEXT, read_at INTEGER, "
            "counters INTEGER NOT NULL DEFAULT 0, skipped INTEGER NOT NULL DEFAULT 0, "
            "restarts INTEGER NOT NULL DEFAULT 0, reports INTEGER NOT NULL DEFAULT 0, "
            "unmapped INTEGER NOT NULL DEFAULT 0, unmapped_names TEXT NOT NULL DEFAULT '[]', "
            "problem TEXT)"
        )
        db.execute(
            "CREATE TABLE baseline (source TEXT NOT NULL, counter TEXT NOT NULL, "
            "upload_bytes INTEGER NOT NULL, download_bytes INTEGER NOT NULL, "
            "PRIMARY KEY (source, counter)) WITHOUT ROWID"
        )
        db.execute("CREATE TABLE delivery (lane TEXT PRIMARY KEY, problem TEXT) WITHOUT ROWID")
        db.execute(
            "INSERT INTO source (name, fingerprint, started) VALUES ('x', ?, 'a')",
            (source().fingerprint,),
        )
        db.execute("INSERT INTO baseline VALUES ('x', 'alice', 100, 0)")
    spool.close()
    for value in (90, 103):
        state = State(Spool(path))
        absorb(source(), state, sample(Life(started="a"), alice=value))
        state.spool.close()
    state = State(Spool(path))
    assert queued(state) == [("alice", 3)]
    state.spool.close()


def test_what_tells_a_restart_by_itself_is_stored(state):
    life = Life(ticks=9, collections=Collections(2, 17, frozenset({15, 17})), sums=(5, 0))
    polled = PollTime("boot", 1.5, 2.5)
    absorb(source(), state, replace(sample(life, alice=1), polled=polled))
    with state.spool.reading() as db:
        known = state.known(db, "x", source().fingerprint)
    assert known.polled == polled
    assert known.life == Life(ticks=9, collections=Collections(2, 17), sums=(5, 0))
