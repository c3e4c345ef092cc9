"""The bridge's durable memory."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta

import msgspec
import pytest

from marzban_bridge.errors import StoreError
from marzban_bridge.panels.dialect import MARZBAN
from marzban_bridge.panels.users import Status
from marzban_bridge.quota.account import Event, ResetRequest, Restoration
from marzban_bridge.quota.observe import observe
from marzban_bridge.quota.resets.reset_all import ResetAll
from marzban_bridge.quota.usage import NOTHING, Totals, UsageChange
from marzban_bridge.store import events
from marzban_bridge.store.accounts import PendingResets
from marzban_bridge.store.handle import from_millis
from marzban_bridge.store.sqlite import APPLICATION_ID, MIGRATIONS
from marzban_bridge.store.store import Store
from marzban_bridge.store.usage_sums import capped_sum, sum_of
from tests.support.bridge.bridge_builders import (
    NOW,
    account,
    as_reported,
    gib,
    next_plan,
    panel_user,
)


@pytest.fixture
def store(store_place):
    opened = store_place.open()
    yield opened
    opened.close()


@pytest.fixture
def file_store(tmp_path):
    opened = Store(tmp_path / "bridge.sqlite3")
    yield opened
    opened.close()


def change(username, total_bytes, seq):
    return UsageChange(
        username=username, total_bytes=total_bytes, raw_bytes=total_bytes, change_seq=seq
    )


def test_an_account_comes_back_as_it_was_stored(store):
    plan = next_plan()
    kept = account(
        panel_user(next_plan=plan, admin="reseller", status=Status.ON_HOLD),
        published_bytes=5,
        remembered_limits=(4, 5),
        is_disabled_by_us=True,
        echo_until=NOW,
        restoration=Restoration(status=Status.ON_HOLD, next_plan=plan),
        reset_request=ResetRequest(
            cause="asked", actor="root", total_bytes=9, raw_total_bytes=5, requested_at=NOW
        ),
    )
    store.accounts.save(kept, at=NOW)
    assert store.accounts.get("alice") == kept
    assert list(store.accounts.all(admin="reseller")) == [kept]
    assert list(store.accounts.all(admin="other")) == []


def test_an_account_of_a_version_without_open_writes_keeps_the_write_it_was_at(store):
    """That one had the limit and the status of one write, and forgot them at the next look."""
    store.accounts.save(
        account(panel_user(data_limit_bytes=gib(4)), published_bytes=gib(4)), at=NOW
    )
    query = "SELECT state FROM account WHERE account_key = 'alice'"
    state = msgspec.json.decode(store._handle.db.execute(query).fetchone()[0])
    del state["open_writes"]
    state |= {"intended_bytes": gib(3), "intended_status": "disabled"}
    with store._handle.transaction():
        statement = "UPDATE account SET state = ? WHERE account_key = 'alice'"
        store._handle.db.execute(statement, (msgspec.json.encode(state),))
    held = store.accounts.get("alice")
    nothing = Totals(billed_bytes=0, raw_bytes=0)
    looked = observe(
        held, panel_user(data_limit_bytes=gib(4)), totals=nothing, now=NOW, dialect=MARZBAN
    ).account
    landed = panel_user(data_limit_bytes=gib(3), status=Status.DISABLED)
    looked = observe(
        looked, landed, totals=nothing, now=NOW + timedelta(seconds=25), dialect=MARZBAN
    ).account
    assert (looked.quota_bytes, looked.published_bytes) == (gib(10), gib(3))
    assert looked.is_disabled_by_us
    assert looked.intended_bytes is looked.intended_status is None
    store.accounts.save(looked, at=NOW)
    assert store.accounts.get("alice") == looked


def test_everything_survives_closing_the_store(store_place):
    first = store_place.open()
    first.accounts.save(account(), [Event(kind="adopted", text="hello")], at=NOW)
    first.usage.record([change("alice", gib(7), 12)], cursor=12, runs=())
    first.close()
    second = store_place.open()
    assert second.accounts.get("alice") == account()
    assert (second.usage.cursor, second.usage.total_bytes("alice")) == (12, gib(7))
    assert [(each.username, each.event.kind, each.at) for each in second.events.newest()] == [
        ("alice", "adopted", NOW)
    ]
    second.close()


def test_usage_is_summed_over_all_names_that_count_for_an_account(store):
    touched = store.usage.record([change("Alice", 5, 1), change("alice", 7, 2)], cursor=2, runs=())
    assert touched == {"default": ["Alice", "alice"]}
    assert store.name_owners.record_unknown("Alice", candidates=["alice"], at=NOW) == ["alice"]
    assert store.usage.total_bytes("alice") == 12
    touched = store.usage.record([change("Alice", 6, 3)], cursor=3, runs=())
    assert touched == {"default": ["alice"]}
    assert store.usage.total_bytes("alice") == 13


def test_an_unknown_name_is_news_once_and_no_orphan_once_it_has_an_account(store):
    store.usage.record([change("alice", 5, 1)], cursor=1, runs=())
    for _ in range(2):
        assert store.name_owners.record_unknown("alice", candidates=(), at=NOW) == []
    assert [each.event.kind for each in store.events.newest()] == ["orphan"]
    assert [(each.username, each.total_bytes) for each in store.unknown_names.all()] == [
        ("alice", 5)
    ]
    store.accounts.save(account(), at=NOW)
    assert not store.placement.is_missing("alice")
    assert store.counts() == {"accounts": 1, "unknown_names": 0, "held": 0}


def test_a_deleted_users_name_is_an_orphan(store):
    store.accounts.save(account(), at=NOW)
    store.departures.forget("alice", Event(kind="deleted", text="gone"), username="alice", at=NOW)
    assert store.accounts.get("alice") is None
    assert store.placement.is_missing("alice")


def test_a_redelivered_webhook_is_no_news(store):
    assert store.reset_news.announce(
        [(b"1", "alice"), (b"2", "bob")], at=NOW, remember_seconds=60
    ) == [
        "alice",
        "bob",
    ]
    assert store.reset_news.announce([(b"1", "alice")], at=NOW, remember_seconds=60) == []
    later = NOW + timedelta(seconds=61)
    assert store.reset_news.announce([(b"1", "alice")], at=later, remember_seconds=60) == ["alice"]


def test_an_announcement_waits_until_a_look_has_taken_it_into_account(store):
    store.reset_news.announce([(b"1", "alice")], at=NOW, remember_seconds=60)
    assert store.reset_news.is_announced("alice")
    store.accounts.save(account(), at=NOW)
    assert store.reset_news.is_announced("alice"), (
        "a write that is stored meanwhile has not heard of it"
    )
    store.accounts.save(account(), at=NOW, takes_announcement=True)
    assert not store.reset_news.is_announced("alice")


def test_a_reset_of_all_users_is_remembered_by_owner(store):
    noticed = ResetAll(seen_at=NOW, after=NOW - timedelta(seconds=60))
    store.reset_news.record_of_everybody(None, noticed)
    assert store.reset_news.of_everybody(None) == noticed
    assert store.reset_news.of_everybody("reseller") is None
    assert store.of("two").reset_news.of_everybody(None) is None


def test_accounts_are_found_by_their_owner_and_without_one(store):
    store.accounts.save(account(panel_user(username="a", admin="reseller")), at=NOW)
    store.accounts.save(account(panel_user(username="b")), at=NOW)
    assert store.accounts.keys_of_owner("reseller") == ["a"]
    assert store.accounts.keys_of_owner(None) == ["b"]


def test_keys_are_paged_over_reported_names_and_accounts(store):
    store.usage.record([change(name, 1, seq) for seq, name in enumerate("ecab")], cursor=4, runs=())
    store.accounts.save(account(panel_user(username="d")), at=NOW)
    assert store.placement.keys(limit=3) == ["a", "b", "c"]
    assert store.placement.keys(after="c", limit=3) == ["d", "e"]
    assert store.placement.is_known("d")
    assert not store.placement.is_known("x")


def test_forgetting_usage_begins_the_feed_anew(store):
    store.usage.record([change("alice", 5, 9)], cursor=9, runs=())
    store.usage.forget(ledger_id="other")
    assert (store.usage.cursor, store.usage.total_bytes("alice"), store.meta("ledger_id")) == (
        0,
        0,
        "other",
    )


def resetting(name, requested_at=NOW):
    request = ResetRequest(
        cause="asked",
        actor="root",
        total_bytes=9,
        raw_total_bytes=9,
        requested_at=requested_at,
    )
    return account(panel_user(username=name), reset_request=request)


def test_resets_that_wait_are_counted_until_they_are_finished(store):
    assert store.accounts.pending_resets() == PendingResets(count=0, oldest_requested_at=None)
    store.accounts.save(account(), at=NOW)
    store.accounts.save(resetting("bob", NOW - timedelta(minutes=5)), at=NOW)
    store.accounts.save(resetting("carol", NOW - timedelta(minutes=1)), at=NOW)
    since = NOW - timedelta(minutes=5)
    assert store.accounts.pending_resets() == PendingResets(count=2, oldest_requested_at=since)
    store.accounts.save(account(panel_user(username="bob")), at=NOW)
    since = NOW - timedelta(minutes=1)
    assert store.accounts.pending_resets() == PendingResets(count=1, oldest_requested_at=since)
    store.departures.forget("carol", Event(kind="deleted", text="gone"), username="carol", at=NOW)
    assert store.accounts.pending_resets().count == 0


@pytest.mark.parametrize("micros", [0, 1000, 123_000, 123_456, 999_999])
def test_a_store_of_the_first_schema_knows_its_waiting_resets_after_the_migration(tmp_path, micros):
    path = tmp_path / "bridge.sqlite3"
    requested_at = NOW.replace(microsecond=micros)
    waiting, idle = resetting("bob", requested_at), account()
    with closing(sqlite3.connect(path)) as db:
        db.executescript(MIGRATIONS[0])
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute("PRAGMA user_version = 1")
        for each in (waiting, idle):
            db.execute(
                "INSERT INTO account (account_key, admin, is_held, state) VALUES (?, ?, ?, ?)",
                (each.key, each.admin, each.is_held, msgspec.json.encode(each)),
            )
        db.commit()
    with closing(Store(path)) as store:
        assert store.accounts.get("bob") == waiting
        assert store.accounts.get("alice") == idle
        pending = store.accounts.pending_resets()
        assert pending.count == 1
        assert abs(pending.oldest_requested_at - requested_at) <= timedelta(milliseconds=1)
        store.accounts.save(waiting, at=NOW)
        assert store.accounts.pending_resets().count == 1
    with closing(Store(path)) as again:
        assert again.accounts.pending_resets().count == 1


def test_before_ratios_raw_bytes_were_what_was_counted(tmp_path):
    """A name in other letters than ASCII and numbers beyond a float's come through as they are."""
    path = tmp_path / "bridge.sqlite3"
    most = 2**62 - 1
    held = account(
        panel_user(username="Зоя 🚀"),
        baseline_bytes=most - 5,
        seen_total_bytes=most,
        reset_request=resetting("x").reset_request,
    )
    state = msgspec.json.decode(msgspec.json.encode(held))
    for name in ("raw_baseline_bytes", "seen_raw_bytes"):
        del state[name]
    del state["reset_request"]["raw_total_bytes"]
    with closing(sqlite3.connect(path)) as db:
        for script in MIGRATIONS[:2]:
            db.executescript(script)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute("PRAGMA user_version = 2")
        db.execute(
            "INSERT INTO account (account_key, admin, is_held, reset_requested_at, state) "
            "VALUES (?, ?, 0, 1, ?)",
            (held.key, held.admin, msgspec.json.encode(state)),
        )
        db.execute("INSERT INTO external_usage VALUES ('Зоя 🚀', ?, ?, 41)", (held.key, most))
        db.execute("INSERT INTO meta VALUES ('feed_cursor', '41')")
        db.commit()
    with closing(Store(path)) as store:
        assert store.accounts.get(held.key) == held
        assert store.usage.totals(held.key) == as_reported(most)
        assert store.usage.cursor == 41


def test_a_store_from_before_accounts_outlived_their_users_keeps_them_from_then_on(tmp_path):
    path = tmp_path / "bridge.sqlite3"
    kept = account(panel_user(admin="shop"))
    with closing(sqlite3.connect(path)) as db:
        for script in MIGRATIONS[:4]:
            db.executescript(script)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute("PRAGMA user_version = 4")
        db.execute(
            "INSERT INTO account (account_key, panel, admin, is_held, state) "
            "VALUES ('alice', 'default', 'shop', 0, ?)",
            (msgspec.json.encode(kept),),
        )
        db.execute("INSERT INTO orphan VALUES ('gone', 'default', 'gone', 1000)")
        db.commit()
    with closing(Store(path)) as store:
        assert list(store.accounts.all()) == [kept]
        assert [(each.username, each.gone_at) for each in store.unknown_names.all()] == [
            ("gone", None)
        ]
        store.departures.forget(
            "alice", Event(kind="deleted", text="gone"), username="alice", at=NOW
        )
        gone = store.gone_accounts.get("alice")
        assert gone is not None
        assert (gone.account, gone.gone_at) == (kept, NOW)


def test_what_was_in_a_store_of_one_panel_is_the_first_ones(tmp_path):
    path = tmp_path / "bridge.sqlite3"
    waiting = resetting("bob")
    with closing(sqlite3.connect(path)) as db:
        for script in MIGRATIONS[:3]:
            db.executescript(script)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute("PRAGMA user_version = 3")
        for each in (account(is_held=True), waiting):
            db.execute(
                "INSERT INTO account VALUES (?, ?, ?, ?, ?)",
                (
                    *(each.key, "shop", each.is_held, msgspec.json.encode(each)),
                    1000 if each.reset_request else None,
                ),
            )
        db.execute("INSERT INTO external_usage VALUES ('Alice', 'alice', 5, 41, 6)")
        db.execute("INSERT INTO external_usage VALUES ('gone', 'gone', 7, 42, 7)")
        db.execute("INSERT INTO orphan VALUES ('gone', 'Gone', 1000)")
        db.execute("INSERT INTO announcement VALUES ('bob', 1000)")
        db.execute("INSERT INTO reset_all VALUES ('shop', 1000)")
        db.execute("INSERT INTO webhook_seen VALUES (x'01', 1000)")
        db.execute(
            "INSERT INTO event (at, username, kind, actor, text) VALUES (1, 'alice', 'x', 'y', 'z')"
        )
        db.commit()
    with closing(Store(path)) as store:
        assert list(store.accounts.all(admin="shop")) == [account(is_held=True), waiting]
        assert store.counts() == {"accounts": 2, "unknown_names": 1, "held": 1}
        assert store.usage.totals("alice") == Totals(billed_bytes=5, raw_bytes=6)
        assert [each.username for each in store.unknown_names.all()] == ["gone"]
        assert store.reset_news.is_announced("bob")
        known = store.reset_news.of_everybody("shop")
        assert known.after == known.seen_at, "an earlier version did not keep when it began"
        assert store.accounts.pending_resets().count == 1
        assert [each.panel for each in store.events.newest()] == ["default"]
        assert (
            store.reset_news.announce([(b"\x01", "bob")], at=from_millis(1500), remember_seconds=1)
            == []
        )
        other = store.of("two")
        assert list(other.accounts.all()) == []
        assert other.counts() == {"accounts": 0, "unknown_names": 0, "held": 0}
        assert (
            other.usage.totals("alice"),
            other.events.newest(),
            other.reset_news.is_announced("bob"),
        ) == (
            *(NOTHING, []),
            False,
        )


def test_raw_bytes_are_kept_beside_what_they_count_for(store):
    one = UsageChange(username="Alice", total_bytes=10, raw_bytes=5, change_seq=1)
    other = UsageChange(username="alice", total_bytes=0, raw_bytes=7, change_seq=2)
    store.usage.record([one, other], cursor=2, runs=())
    store.name_owners.record_unknown("Alice", candidates=["alice"], at=NOW)
    assert store.usage.totals("alice") == Totals(billed_bytes=10, raw_bytes=12)
    assert store.usage.total_bytes("alice") == 10
    store.name_owners.record_unknown("alice", candidates=(), at=NOW)
    (unknown,) = store.unknown_names.all()
    assert (unknown.total_bytes, unknown.raw_bytes) == (10, 12)
    store.usage.record(
        [UsageChange(username="alice", total_bytes=1, raw_bytes=8, change_seq=3)], cursor=3, runs=()
    )
    assert store.usage.totals("alice") == Totals(billed_bytes=11, raw_bytes=13)
    assert store.usage.totals("nobody") == NOTHING


def test_events_are_paged_oldest_first(store):
    for text in ("one", "two", "three"):
        store.events.record("alice", Event(kind="reset", text=text), at=NOW)
    page = store.events.after(0, limit=2)
    assert [each.event.text for each in page] == ["one", "two"]
    assert [each.event.text for each in store.events.after(page[-1].seq, limit=2)] == ["three"]


def test_the_last_event_before_a_moment_is_found(store):
    for minutes in (1, 2, 3):
        at = NOW + timedelta(minutes=minutes)
        store.events.record("alice", Event(kind="reset", text="x"), at=at)
    assert store.events.last_before(NOW) == 0
    assert store.events.last_before(NOW + timedelta(minutes=2)) == 1
    assert store.events.last_before(NOW + timedelta(hours=1)) == 3


def test_every_change_is_told_after_it_is_stored(store):
    told = []
    store.on_change = lambda panel, keys: told.append(
        (panel, list(keys), store._handle.db.in_transaction)
    )
    store.accounts.save(account(panel_user(username="Alice")), at=NOW)
    store.usage.record([change("Alice", 5, 1), change("bob", 7, 2)], cursor=2, runs=())
    store.events.record("", Event(kind="cleanup", text="x"), at=NOW)
    store.name_owners.record_unknown("bob", candidates=(), at=NOW)
    store.name_owners.record_unknown("bob", candidates=(), at=NOW)
    store.departures.forget("Alice", Event(kind="deleted", text="x"), username="Alice", at=NOW)
    assert told == [
        ("default", ["Alice"], False),
        ("default", ["Alice", "bob"], False),
        ("default", [], False),
        ("default", [], False),
        ("default", ["Alice"], False),
    ]


def test_a_second_writer_is_refused_and_told_who_has_the_file(tmp_path, file_store):
    with pytest.raises(StoreError, match=r"in use by another process \(pid \d+\)"):
        Store(tmp_path / "bridge.sqlite3")


def test_reading_beside_the_writer_is_possible_and_writing_is_not(store_place, store):
    store.accounts.save(account(), at=NOW)
    reader = store_place.read()
    assert reader.accounts.get("alice") == account()
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.set_meta("a", "b")
    reader.close()


def test_reading_a_store_that_does_not_exist_says_so(tmp_path):
    with pytest.raises(StoreError, match="there is no bridge store at"):
        Store(tmp_path / "none.sqlite3", read_only=True)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("PRAGMA user_version = 1; CREATE TABLE x (y);", "not a bridge store"),
        (
            f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 99;",
            f"newer version .schema 99, this version knows {len(MIGRATIONS)}",
        ),
    ],
)
def test_a_foreign_or_newer_file_is_refused(tmp_path, script, message):
    path = tmp_path / "bridge.sqlite3"
    with sqlite3.connect(path) as db:
        db.executescript(script)
    db.close()
    with pytest.raises(StoreError, match=message):
        Store(path)
    Store(tmp_path / "other.sqlite3").close()


def test_a_damaged_file_is_refused_with_the_way_out(tmp_path):
    path = tmp_path / "bridge.sqlite3"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(StoreError, match=r"restore a backup; .* first correct users"):
        Store(path)


def test_a_failed_transaction_leaves_nothing_behind(store):
    with pytest.raises(OverflowError):
        store.usage.record([change("alice", 5, 1), change("bob", 2**70, 2)], cursor=2, runs=())
    assert (store.usage.cursor, store.usage.total_bytes("alice")) == (0, 0)


def record_daily(store, kinds):
    for day, kind in enumerate(kinds):
        store.events.record("alice", Event(kind=kind, text=str(day)), at=NOW + timedelta(days=day))


def texts(store):
    return [each.event.text for each in store.events.after(0, limit=100)]


def test_old_events_are_purged_but_no_change_of_a_quota(store):
    record_daily(store, ["published", "quota_changed", "published", "published"])
    before = NOW + timedelta(days=3)
    assert store.events.purge(after=0, through=4, before=before) == 4
    assert texts(store) == ["1", "3"]
    assert store.events.purge(after=4, through=4, before=before) == 4


def test_events_are_purged_up_to_a_number_and_page_by_page(store, monkeypatch):
    monkeypatch.setattr(events, "PURGE_PAGE", 2)
    record_daily(store, ["published"] * 5)
    before = NOW + timedelta(days=30)
    assert store.events.purge(after=0, through=4, before=before) == 2
    assert texts(store) == ["2", "3", "4"]
    assert store.events.purge(after=2, through=4, before=before) == 4
    assert texts(store) == ["4"]
    assert store.events.purge(after=4, through=4, before=before) == 4


def test_no_event_that_is_young_is_purged(store):
    record_daily(store, ["published"] * 3)
    assert store.events.purge(after=0, through=3, before=NOW) == 0
    assert texts(store) == ["0", "1", "2"]


def test_a_purged_event_is_one_that_the_store_had_and_a_missing_one_is_not(store):
    record_daily(store, ["published"] * 3)
    digests = [store.identity.entry_digest(number) for number in (1, 2, 3)]
    store.events.purge(after=0, through=2, before=NOW + timedelta(days=1))
    assert texts(store) == ["1", "2"]
    assert store.identity.has_had(1, digests[0])
    assert store.identity.has_had(3, digests[2])
    assert not store.identity.has_had(3, digests[1]), "a store that was continued from a copy"
    assert not store.identity.has_had(4, "of a newer store")


def test_numbers_of_purged_events_are_not_given_again(store_place):
    first = store_place.open()
    record_daily(first, ["published"] * 3)
    first.events.purge(after=0, through=2, before=NOW + timedelta(days=9))
    first.close()
    second = store_place.open()
    assert second.identity.newest()[0] == 3
    record_daily(second, ["published"])
    assert second.identity.newest()[0] == 4
    second.close()


def test_many_users_are_read_at_once_as_each_is_alone(store):
    reported = [change("alice", 2**61, 1), change("ALICE", 2**61, 2), change("bob", 7, 3)]
    store.usage.record([*reported, change("two/carol", 9, 4)], cursor=4, runs=())
    store.name_owners.record_unknown("ALICE", candidates=["alice"], at=NOW)
    with store._handle.transaction():
        store.openings.keep("bob", "default", 11, 13)
    store.accounts.save(account(), at=NOW)
    store.reset_news.announce([(b"1", "alice"), (b"2", "alice")], at=NOW, remember_seconds=60)
    noticed = ResetAll(seen_at=NOW, after=NOW)
    store.reset_news.record_of_everybody("shop", noticed)
    found = store.users({"alice": None, "bob": "shop", "unknown": None})
    totals = {key: each.totals for key, each in found.items()}
    for key, of_it in totals.items():
        alone = store.usage.totals(key)
        assert (of_it, of_it.seqs) == (alone, alone.seqs)
    assert (totals["alice"].billed_bytes, totals["bob"].billed_bytes) == (2**62, 18)
    assert [each.account for each in found.values()] == [account(), None, None]
    news = {key: (each.news.told_at, each.news.is_told_again) for key, each in found.items()}
    assert news == {"alice": (NOW, True), "bob": (None, False), "unknown": (None, False)}
    assert [each.news.reset_all for each in found.values()] == [None, noticed, None]


def test_many_users_who_share_quotas_are_read_as_each_is_alone(store):
    store.configure(["default", "two"], shares_quotas=True)
    store.usage.record([change("alice", 5, 1), change("two/alice", 7, 2)], cursor=2, runs=())
    store.of("two").accounts.save(account(), at=NOW)
    totals = store.users({"alice": None})["alice"].totals
    assert (totals, totals.seqs) == (store.usage.totals("alice"), (("alice", 1), ("two/alice", 2)))


@pytest.mark.parametrize("amounts", [[], [5, -3], [2**62], [2**61, 2**61, 2**61], [2**62 - 1, 1]])
def test_a_sum_of_a_few_amounts_is_that_of_their_rows(amounts):
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE amount (bytes INTEGER)")
        db.executemany("INSERT INTO amount VALUES (?)", [(each,) for each in amounts])
        (of_rows,) = db.execute(f"SELECT {sum_of('bytes')} FROM amount").fetchone()
    assert capped_sum(amounts) == of_rows


def test_users_who_are_stored_together_are_found_and_their_webhooks_taken(store):
    for key in ("alice", "bob"):
        store.usage.record([change(key, 5, 1)], cursor=1, runs=())
        store.name_owners.record_unknown(key, candidates=[], at=NOW)
    store.reset_news.announce([(b"1", "alice"), (b"2", "bob")], at=NOW, remember_seconds=60)
    store.accounts.save_all([account()], at=NOW)
    missing = [store.placement.is_missing(key) for key in ("alice", "bob")]
    waiting = [store.reset_news.is_announced(key) for key in ("alice", "bob")]
    assert (missing, waiting) == ([False, True], [False, True])


def test_the_names_in_notes_are_those_of_now_after_the_name_was_renewed(store):
    store.identity.renew()
    before = store.identity.names_in_notes
    store.identity.renew()
    after = store.of("two").identity.names_in_notes
    assert after == before | {store.identity.name_in_notes}
    assert len(after) == 2
