"""A store in PostgreSQL: fenced by its lease, moved from a file, used by one process at a time."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from contextlib import closing

import psycopg
import pytest

from marzban_bridge.cli import main as cli
from marzban_bridge.config.settings import StoreUrl
from marzban_bridge.errors import NotLeadingError, StoreAwayError, StoreError
from marzban_bridge.panels.write_guard import TRY_SECONDS
from marzban_bridge.quota.account import Event
from marzban_bridge.quota.resets.reset_all import ResetAll
from marzban_bridge.quota.usage import UsageChange
from marzban_bridge.store.postgres import schema as shared_schema
from marzban_bridge.store.postgres.leadership import Leadership
from marzban_bridge.store.postgres.lease import Lease, row_of
from marzban_bridge.store.postgres.link import PostgresLink, open_connection
from marzban_bridge.store.postgres.replica import PostgresReplica, ReplicaReader
from marzban_bridge.store.sqlite import in_memory
from marzban_bridge.store.store import Store
from tests.support.bridge.bridge_builders import NOW, account, gib, panel_user
from tests.support.bridge.shared_stores import assert_written_through, give_back, lead, open_shared
from tests.support.bridge.world import World
from tests.support.engines.postgres_server import PASSWORD
from tests.support.tcp_proxy import TcpProxy

HELLO = Event(kind="adopted", text="hello")


@pytest.fixture
def url(postgres):
    return postgres.url(postgres.new_database())


@pytest.fixture
def opened(url):
    store, lease = open_shared(url)
    yield store, lease
    store.close()


def ask(url, query):
    with psycopg.connect(url, options="-c search_path=bridge", autocommit=True) as db:
        return db.execute(query).fetchall()


def test_its_tables_have_the_files_columns_and_keys():
    copy = in_memory()
    names = {
        row[0]
        for row in copy.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        if not row[0].startswith("sqlite_")
    }
    assert {table.name for table in shared_schema.TABLES} == names
    for table in shared_schema.TABLES:
        info = copy.execute(f"PRAGMA table_info({table.name})").fetchall()
        assert [row[1] for row in info] == list(table.columns), table.name
        kinds = {"TEXT": "text", "INTEGER": "bigint", "BLOB": "bytea"}
        assert [kinds[row[2]] for row in info] == [table.kind(each) for each in table.columns]
        needed = [row[1] for row in info if row[3] or row[5]]
        assert needed == [name for name, kind in table.columns.items() if kind.endswith("!")]
        keys = sorted((row[5], row[1]) for row in info if row[5])
        assert tuple(name for _, name in keys) == table.keys
    copy.close()


def test_a_bridge_that_lost_its_lease_stores_nothing(url, opened):
    former, _ = opened
    former.accounts.save(account(), [HELLO], at=NOW)
    store, _ = open_shared(url)
    for _ in range(2):
        with pytest.raises(NotLeadingError, match="another bridge has taken the lease"):
            former.accounts.save(account(quota_bytes=gib(99)), [HELLO], at=NOW)
    assert former.accounts.get("alice") == account(), "what was not stored is not remembered"
    assert_written_through(store, url)
    assert len(store.events.newest()) == 1
    store.accounts.save(account(quota_bytes=gib(20)), [HELLO], at=NOW)
    assert [each.seq for each in store.events.newest()] == [2, 1]
    assert_written_through(store, url)
    store.close()


def test_what_is_changed_outside_a_transaction_cannot_be(opened):
    store, _ = opened
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        store._handle.db.execute("INSERT INTO meta VALUES ('a', 'b')")
    store.set_meta("a", "b")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        store._handle.db.execute("DELETE FROM meta")


def test_a_commit_whose_answer_is_lost_ends_leading_and_the_next_one_reads_what_is_true(
    postgres, url
):
    line = TcpProxy(postgres.port)
    lease = lead(url)
    store = Store(PostgresReplica(postgres.url(url.rpartition("/")[2], port=line.port), lease))
    store.set_meta("a", "1")
    line.cut_after = b"write_0"
    with pytest.raises(NotLeadingError) as caught:
        store.set_meta("a", "2")
    assert PASSWORD not in str(caught.value)
    assert line.cuts == 1
    with pytest.raises(NotLeadingError):
        store.set_meta("a", "3")
    assert store.meta("a") == "1"
    store.close()
    line.close()
    again, _ = open_shared(url)
    assert again.meta("a") == "2"
    again.close()


def test_texts_that_postgresql_cannot_hold_are_stored_all_the_same(url, opened):
    store, _ = opened
    store.events.record("alice", Event(kind="conflict", text="the panel says \0"), at=NOW)
    assert [each.event.text for each in store.events.newest()] == ["the panel says \ufffd"]


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_done_is_written_through(url, opened, seed):
    store, _ = opened
    dice = random.Random(seed)
    store.configure(["default", "two"], shares_quotas=seed == 2)
    books = [store, store.of("two")]
    for number in range(60):
        each, name = dice.choice(books), dice.choice(("alice", "ALICE", "Carol"))
        match dice.randrange(8):
            case 0 | 1:
                each.accounts.save(account(panel_user(username=name)), [HELLO], at=NOW)
            case 2:
                if each.accounts.get(name):
                    each.departures.forget(name, HELLO, username=name, at=NOW)
            case 3:
                reported = dice.choice((name, f"two/{name}"))
                change = UsageChange(
                    username=reported, total_bytes=number, raw_bytes=number, change_seq=number
                )
                store.usage.record([change], cursor=number, runs=())
            case 4:
                candidates = dice.choice(((), (name.swapcase(),)))
                each.name_owners.record_unknown(name, candidates=candidates, at=NOW)
                each.name_owners.part(dice.choice(("ALICE", "alice")), at=NOW)
            case 5:
                each.reset_news.announce([(bytes([number]), name)], at=NOW, remember_seconds=60)
            case 6:
                all_of_them = ResetAll(seen_at=NOW, after=NOW)
                each.reset_news.record_of_everybody(dice.choice((None, name)), all_of_them)
            case 7:
                store.duplicate_names.record({name: {"default", "two"}}, is_all=True)
                store.of("two").name_owners.claim(name, at=NOW)
    assert_written_through(store, url)
    store.usage.forget(ledger_id="another")
    store.suspend("because", HELLO, at=NOW)
    store.resume()
    assert_written_through(store, url)


def test_the_lease_is_taken_by_one_and_kept_from_others_until_it_is_given_back(url):
    one, two = lead(url, seconds=60), Lease(60)
    link = PostgresLink(url)
    assert not link.ask(two.take)
    assert two.row.holder == one.holder
    give_back(url, one)
    assert link.ask(two.take)
    assert two.is_held
    assert two.epoch > one.epoch
    with pytest.raises(NotLeadingError):
        link.ask(one.extend)
    assert not one.is_held
    link.ask(lambda db: two.release(db, after_seconds=30))
    assert not link.ask(one.take), "a write may still be on its way"
    link.close()


def test_a_deadline_left_over_from_before_a_clock_was_set_back_is_not_waited_for(url):
    lead(url, seconds=3600)
    other = Lease(0.05)
    link = PostgresLink(url)
    tries = 0
    while not link.ask(other.take):
        tries += 1
    assert tries > 1
    link.close()


async def test_a_leader_whose_lease_is_taken_is_cancelled_and_follows(url):
    leadership = Leadership(url, lease=Lease(3))
    led, ended = asyncio.Event(), asyncio.Event()

    async def work(store):
        store.set_meta("who", "leads")
        led.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(leadership.run(work))
    await led.wait()
    assert leadership.lease.is_held
    other = await asyncio.to_thread(lead, url)
    async with asyncio.timeout(120):
        await ended.wait()
        while leadership.leader is None:
            await asyncio.sleep(0.01)
    assert not leadership.lease.is_held
    await asyncio.to_thread(give_back, url, other)
    led.clear()
    async with asyncio.timeout(120):
        await led.wait()
    task.cancel()
    await asyncio.wait([task])
    ((expired,),) = ask(url, "SELECT expires_at <= clock_timestamp() FROM lease")
    assert expired, "who ends gives the lease back"


async def test_a_leader_that_cannot_keep_its_lease_is_cancelled_though_it_stores_nothing(
    postgres, url
):
    line = TcpProxy(postgres.port)
    far = postgres.url(url.rpartition("/")[2], port=line.port)
    leadership = Leadership(far, lease=Lease(2))
    led, ended = asyncio.Event(), asyncio.Event()

    async def idle(store):
        led.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(leadership.run(idle))
    await led.wait()
    line.freeze()
    async with asyncio.timeout(120):
        await ended.wait()
    assert not leadership.lease.is_held
    led.clear()
    line.thaw()
    async with asyncio.timeout(120):
        await led.wait()
    task.cancel()
    await asyncio.wait([task])
    line.close()


async def test_a_lease_is_not_given_back_before_a_write_without_an_answer_is_over(url):
    leadership = Leadership(url)
    led = asyncio.Event()

    async def write(store):
        async with leadership.guard.one_try():
            led.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(leadership.run(write))
    await led.wait()
    task.cancel()
    await asyncio.wait([task])
    left = "extract(epoch FROM expires_at - clock_timestamp())"
    ((seconds, token),) = ask(url, f"SELECT {left}, token FROM lease")
    assert TRY_SECONDS - 2 < seconds <= TRY_SECONDS
    assert token == ""


async def test_a_defect_ends_leading_and_gives_the_lease_back(url):
    async def fail(store):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Leadership(url).run(fail)
    assert ask(url, "SELECT expires_at <= clock_timestamp() FROM lease") == [(True,)]


def test_a_store_that_is_none_or_of_another_version_is_refused(url):
    with pytest.raises(StoreError, match="there is no bridge store at"):
        ReplicaReader(url)
    shared_schema.prepare(url)
    ask(url, "INSERT INTO version VALUES (99) RETURNING 1")
    for opening in (lambda: ReplicaReader(url), lambda: shared_schema.prepare(url)):
        with pytest.raises(StoreError, match=r"another version \(schema 99"):
            opening()


def test_a_store_of_an_earlier_version_gets_the_tables_it_has_not(url):
    shared_schema.prepare(url)
    with psycopg.connect(url, options="-c search_path=bridge", autocommit=True) as db:
        db.execute("DROP TABLE gone_account")
        db.execute("UPDATE version SET number = 4")
    shared_schema.prepare(url)
    store = Store(ReplicaReader(url))
    assert list(store.gone_accounts.all()) == []
    store.close()


def test_a_database_that_is_away_is_named_without_its_password(postgres):
    url = f"postgresql://owner:{PASSWORD}@127.0.0.1:1/nowhere"
    with pytest.raises(StoreAwayError, match=r"127\.0\.0\.1:1/nowhere cannot") as caught:
        open_connection(url)
    assert PASSWORD not in str(caught.value)
    assert PASSWORD not in f"{StoreUrl(url)} {StoreUrl(url)!r}"


class TestCommands:
    """Each works on PostgreSQL, or says why not and what to do instead."""

    @pytest.fixture
    def world(self, tmp_path, url, monkeypatch):
        opened = World(tmp_path)
        opened.panel.create_user("alice", data_limit=gib(10))
        opened.ledger.report("alice", gib(2))
        opened.one_pass()
        opened.close()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("BRIDGE_STORE", url)
        monkeypatch.setenv("BRIDGE_PORT", "1")
        return opened

    def test_a_store_is_moved_whole_and_only_into_an_empty_one(self, world, url, capsys):
        file = world.settings.store
        assert cli.main(["move-store", str(file)]) == 0
        said = capsys.readouterr().out
        assert "1 users and " in said
        assert PASSWORD not in said
        with closing(Store(file, read_only=True)) as old, closing(Store(ReplicaReader(url))) as new:
            assert new.accounts.get("alice") == old.accounts.get("alice")
            assert new.events.newest() == old.events.newest()
            assert new.identity.name == old.identity.name
            assert new.identity.newest() == old.identity.newest()
        assert cli.main(["move-store", str(file)]) == 1
        assert "there is a store in postgresql://owner@127" in capsys.readouterr().err
        store, lease = open_shared(url)
        seqs = [each.seq for each in store.events.newest()]
        store.events.record("alice", HELLO, at=NOW)
        assert store.events.newest()[0].seq == seqs[0] + 1
        store.close()
        give_back(url, lease)

    def test_a_store_in_use_is_not_moved(self, world, url, capsys):
        with closing(Store(world.settings.store)):
            assert cli.main(["move-store", str(world.settings.store)]) == 1
        assert "in use by another process" in capsys.readouterr().err
        assert ask(url, "SELECT count(*) FROM account") == [(0,)]

    def test_users_and_events_are_shown_beside_a_leader(self, world, url, capsys):
        assert cli.main(["move-store", str(world.settings.store)]) == 0
        lead(url)
        assert cli.main(["users"]) == 0
        assert cli.main(["events", "alice"]) == 0
        assert capsys.readouterr().out.count("alice") >= 2

    @pytest.mark.parametrize("command", ["once", "release", "rebase", "reset alice"])
    def test_what_writes_is_refused_while_another_leads(
        self, world, url, capsys, monkeypatch, command
    ):
        monkeypatch.setenv("MARZBAN_URL", "http://127.0.0.1:1")
        monkeypatch.setenv("MARZBAN_USERNAME", "root")
        monkeypatch.setenv("MARZBAN_PASSWORD", "p")
        lease = lead(url)
        assert cli.main(command.split()) == 1
        assert f"the bridge {lease.holder} leads" in " ".join(capsys.readouterr().err.split())

    def test_a_backup_is_postgresqls_business_and_up_needs_a_file(self, world, url, capsys):
        assert cli.main(["backup", "copy"]) == 1
        assert "pg_dump --format=custom --schema=bridge" in capsys.readouterr().err
        assert cli.main(["up"]) == 1
        assert PASSWORD not in capsys.readouterr().err

    @pytest.mark.parametrize(
        "value",
        ["postgres://u:secret@h/d", "postgresql://u:sec/ret@h:5432/d", "mysql://u:secret@h"],
    )
    def test_a_malformed_url_is_refused_and_not_repeated(self, capsys, monkeypatch, value):
        monkeypatch.setenv("BRIDGE_STORE", value)
        assert cli.main(["users"]) == 1
        said = capsys.readouterr().err
        assert "BRIDGE_STORE: expected" in " ".join(said.split())
        assert "sec" not in said


def test_a_lease_that_was_restored_in_part_is_an_error(url):
    shared_schema.prepare(url)
    ask(url, "DELETE FROM lease RETURNING 1")
    link = PostgresLink(url)
    with pytest.raises(StoreAwayError, match="has no lease"):
        link.ask(row_of)
    link.close()
