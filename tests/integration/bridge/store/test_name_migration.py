"""Stores of bridges that told users apart without case, on both engines: nothing lost or forgiven."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import msgspec
import psycopg
import pytest

from marzban_bridge.errors import NotLeadingError
from marzban_bridge.quota.shared_quota import SharedQuota
from marzban_bridge.quota.usage import Totals
from marzban_bridge.store.postgres.lease import Lease
from marzban_bridge.store.postgres.link import PostgresLink
from marzban_bridge.store.postgres.replica import ReplicaReader
from marzban_bridge.store.postgres.rows import load
from marzban_bridge.store.postgres.schema import VERSION
from marzban_bridge.store.postgres.upgrade import upgrade
from marzban_bridge.store.store import Store
from tests.support.bridge.bridge_builders import NOW, account, gib, panel_user
from tests.support.bridge.old_stores import copy_to_postgres, old_file
from tests.support.bridge.shared_stores import ENGINES, POSTGRESQL, StorePlace, lead
from tests.support.bridge.world import World

MILLIS = int(NOW.timestamp() * 1000)


class OldStore:
    """A store of schema 5 with rows of the caller's; `open` opens it as today's version does."""

    def __init__(self, folder, engine, request) -> None:
        self.engine = engine
        self.path = folder / "bridge.sqlite3"
        self.db = old_file(self.path, 5)
        self._request = request
        self.place = None

    def account(self, key, one, *, panel="default"):
        self.db.execute(
            "INSERT INTO account VALUES (?, ?, ?, ?, NULL, ?, ?)",
            (
                *(key, panel, one.admin, one.is_held),
                *(one.lifetime_panel_bytes, msgspec.json.encode(one)),
            ),
        )

    def usage(self, username, key, total, *, panel="default", seq=1):
        self.db.execute(
            "INSERT INTO external_usage (username, account_key, panel, total_bytes, raw_bytes, "
            "change_seq) VALUES (?, ?, ?, ?, ?, ?)",
            (username, key, panel, total, 2 * total, seq),
        )

    def put(self, table, *values):
        places = ", ".join("?" * len(values))
        self.db.execute(f"INSERT INTO {table} VALUES ({places})", values)

    def ready(self):
        """Finish the store and return where it is."""
        self.db.commit()
        self.db.close()
        if self.engine == POSTGRESQL:
            server = self._request.getfixturevalue("postgres")
            url = server.url(server.new_database())
            copy_to_postgres(self.path, url)
            self.place = StorePlace(url)
        else:
            self.place = StorePlace(self.path)
        return self.place


@pytest.fixture(params=ENGINES)
def old(tmp_path, request):
    return OldStore(tmp_path, request.param, request)


def test_rows_get_the_panels_spelling_and_other_spellings_become_aliases(old):
    alice = account(panel_user(username="Alice"), baseline_bytes=2, seen_total_bytes=12)
    old.account("alice", alice)
    old.usage("Alice", "alice", 5)
    old.usage("ALICE", "alice", 7)
    for name in ("Gone", "GONE"):
        old.usage(name, "gone", 3)
    old.put("orphan", "gone", "default", "Gone", MILLIS)
    old.put("announcement", "alice", "default", MILLIS)
    store = old.ready().open()
    assert store.accounts.get("alice") is None
    assert store.accounts.get("Alice") == alice
    assert store.usage.totals("Alice") == Totals(billed_bytes=12, raw_bytes=24)
    assert store.reset_news.is_announced("Alice")
    assert store.name_owners.aliases_of(["Alice"]) == ["ALICE"]
    assert sorted(each.username for each in store.unknown_names.all()) == ["GONE", "Gone"]
    assert all(store.placement.is_missing(name) for name in ("GONE", "Gone"))
    store.close()
    again = old.place.open()
    assert again.usage.totals("Alice") == Totals(billed_bytes=12, raw_bytes=24)
    again.close()


def test_a_reader_sees_a_store_that_is_not_migrated_yet_as_it_will_be(old):
    old.account("alice", account(panel_user(username="Alice")))
    old.usage("ALICE", "alice", 4)
    reader = old.ready().read()
    assert reader.usage.total_bytes("Alice") == 4
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.set_meta("a", "b")
    reader.close()


def test_two_users_who_shared_an_account_are_two_and_what_was_counted_stays(old, tmp_path):
    """`alice` was charged for `Alice`: that is neither lost nor forgiven, and ends here."""
    user = panel_user(username="alice", data_limit_bytes=gib(3))
    shared = account(
        user,
        quota_bytes=gib(10),
        published_bytes=gib(3),
        remembered_limits=(gib(3),),
        seen_total_bytes=gib(7),
        seen_raw_bytes=gib(14),
        created_at=NOW,
    )
    old.usage("alice", "alice", gib(2))
    old.usage("Alice", "alice", gib(5), seq=2)
    old.account("alice", shared)
    old.put("meta", "ledger_id", "ledger-1")
    old.put("meta", "feed_cursor", "2")
    place = old.ready()
    world = _world_on(tmp_path, place)
    try:
        world.panel.create_user("alice", data_limit=gib(3))
        world.panel.create_user("Alice", data_limit=gib(20))
        world.panel.users["alice"].created_at = NOW
        world.ledger.report("alice", gib(2))
        world.ledger.report("Alice", gib(5))
        world.one_pass()
        world.one_pass()
        assert _limit(world, "alice") == 3
        assert _limit(world, "Alice") == 20
        texts = [each.event.text for each in world.bridge.store.events.newest()]
        assert any("the 5.00 GiB until now stay with alice" in text for text in texts)
        world.ledger.report("Alice", gib(1))
        world.ledger.report("alice", gib(1))
        world.one_pass()
        assert (_limit(world, "alice"), _limit(world, "Alice")) == (2, 19)
    finally:
        world.close()


def _limit(world, name):
    return world.panel.get_user(name)["data_limit"] / gib(1)


def _world_on(folder, place):
    return World(folder, store=place.setting)


def test_a_name_placed_on_a_later_panel_stays_there(old):
    old.put("meta", "panels", "default two")
    old.account("alice", account(panel_user(username="Alice")), panel="two")
    old.usage("ALICE", "alice", 4, panel="two")
    old.usage("two/alice", "alice", 6, panel="two")
    old.put("orphan", "alice", "default", "ALICE", MILLIS)
    old.put("placement", "alice", "two", 0)
    old.usage("bob", "bob", 4)
    for panel in ("default", "two"):
        old.put("orphan", "bob", panel, "bob", MILLIS)
    old.put("placement", "bob", "two", 1)
    store = old.ready().open()
    two = store.of("two")
    assert two.usage.totals("Alice") == Totals(billed_bytes=10, raw_bytes=20)
    assert two.placement.public_name("Alice") == "Alice"
    assert (
        store.placement.place_of("ALICE")
        == store.placement.place_of("two/alice")
        == ("two", "Alice")
    )
    assert store.placement.is_missing("Alice")
    assert not two.placement.is_missing("Alice")
    assert [each.username for each in store.unknown_names.all()] == ["bob"]
    store.close()


def _sharing(old, names):
    """Fill a store in which users of these names, by panel, share a quota of 10 GiB."""
    old.put("meta", "panels", "default two three")
    old.put("meta", "shares_quotas", "true")
    used = {"default": gib(1), "two": gib(2), "three": gib(1)}
    reported, departed = gib(3), gib(1) // 2
    start = Totals(billed_bytes=gib(1) // 4, raw_bytes=gib(1) // 4)
    accounts = {}
    for panel, name in names.items():
        total = reported + departed + sum(used[it] for it in names if it != panel)
        accounts[panel] = account(
            panel_user(username=name, used_bytes=used[panel]),
            baseline_bytes=start.billed_bytes,
            raw_baseline_bytes=start.raw_bytes,
            seen_total_bytes=total,
            seen_raw_bytes=total + reported,
            shared_period=0,
            shared_version=1,
        )
        old.account("bob", accounts[panel], panel=panel)
    old.usage("bob", "bob", gib(2))
    old.usage("BOB", "bob", gib(1), seq=2)
    quota = SharedQuota(quota_bytes=gib(10), panel="default", start=start, departed_bytes=departed)
    old.put("shared_quota", "bob", departed, msgspec.json.encode(quota))
    return accounts, quota


def _external(books, name):
    found = books.accounts.get(name)
    return books.usage.total_bytes(name) - found.baseline_bytes


def test_a_quota_shared_under_one_spelling_goes_on(old):
    accounts, quota = _sharing(old, {"default": "Bob", "two": "Bob"})
    store = old.ready().open()
    for panel, before in accounts.items():
        assert store.of(panel).accounts.get("Bob") == before
        assert store.of(panel).usage.total_bytes("Bob") == before.seen_total_bytes
    assert store.shared_quotas.get("Bob") == quota
    assert store.events.newest() == []
    store.close()


def test_a_quota_shared_by_two_spellings_is_two_in_which_all_stays_used(old):
    names = {"default": "bob", "two": "BOB", "three": "bob"}
    accounts, quota = _sharing(old, names)
    store = old.ready().open()
    for panel, before in accounts.items():
        books, name = store.of(panel), names[panel]
        after = books.accounts.get(name)
        was_external = before.seen_total_bytes - before.baseline_bytes
        assert _external(books, name) == was_external
        assert after.seen_total_bytes == books.usage.total_bytes(name)
        assert after.seen_raw_bytes == books.usage.totals(name).raw_bytes
    bob, upper = store.shared_quotas.get("bob"), store.shared_quotas.get("BOB")
    assert (bob.departed_bytes, upper.departed_bytes) == (0, 0)
    for name, panel in (("bob", "default"), ("bob", "three"), ("BOB", "two")):
        found = store.of(panel).accounts.get(name)
        start = store.shared_quotas.get(name).start
        assert start.billed_bytes == found.baseline_bytes + found.spent_before_bytes
        assert start.raw_bytes == found.raw_baseline_bytes + found.spent_before_bytes
    assert replace(bob, start=None) == replace(quota, start=None, departed_bytes=0)
    told = [each for panel in names for each in store.of(panel).events.newest()]
    assert sorted(each.username for each in told) == ["BOB", "bob"]
    assert all("all that was used of it stays used" in each.event.text for each in told)
    store.close()


class TestInPostgresql:
    """The leader migrates, in one transaction; readers see the same before and after."""

    @pytest.fixture
    def url(self, tmp_path, request):
        old = OldStore(tmp_path, POSTGRESQL, request)
        old.account("alice", account(panel_user(username="Alice")))
        old.usage("ALICE", "alice", 4)
        old.put("event", 1, MILLIS, "alice", "reset", "root", "x", None, None, "default")
        return old.ready().place

    def test_a_reader_of_an_old_store_sees_it_as_it_will_be(self, url):
        store = Store(ReplicaReader(url))
        assert store.usage.total_bytes("Alice") == 4
        assert _version(url) == 5
        store.close()

    def test_who_does_not_lead_migrates_nothing(self, url):
        lead(url)
        with pytest.raises(NotLeadingError):
            upgrade(url, Lease())
        assert _version(url) == 5
        assert load(url).execute("SELECT account_key FROM account").fetchall() == [("Alice",)]

    def test_it_is_done_once_and_the_trail_goes_on(self, url):
        for _ in range(2):
            place = StorePlace(url)
            store = place.open()
            assert [each.seq for each in store.events.newest()] == [1]
            store.close()
        assert _version(url) == VERSION

    def test_a_lease_lost_in_between_leaves_the_old_store(self, url, monkeypatch):
        lease = lead(url)
        monkeypatch.setattr("marzban_bridge.store.postgres.upgrade.load", _then_lose)
        with pytest.raises(NotLeadingError):
            upgrade(url, lease)
        assert _version(url) == 5


def _then_lose(url):
    copy = load(url)
    link = PostgresLink(url)
    other = Lease(60)
    link.ask(lambda db: db.execute("UPDATE lease SET expires_at = statement_timestamp()"))
    assert link.ask(other.take)
    link.close()
    return copy


def _version(url):
    with psycopg.connect(url, options="-c search_path=bridge") as db:
        return db.execute("SELECT max(number) FROM version").fetchone()[0]
