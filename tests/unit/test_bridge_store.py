"""The bridge's durable memory."""

from __future__ import annotations

import sqlite3
from datetime import timedelta

import pytest
from bridge_builders import NOW, account, gib, next_plan, panel_user

from marzban_bridge.accounts import Event, ResetRequest, Restoration
from marzban_bridge.errors import StoreError
from marzban_bridge.panel import Status
from marzban_bridge.store import Store, UsageChange
from marzban_bridge.store_file import APPLICATION_ID, MIGRATIONS


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "bridge.sqlite3")
    yield opened
    opened.close()


def change(username, total_bytes, seq):
    return UsageChange(username=username, total_bytes=total_bytes, change_seq=seq)


def test_an_account_comes_back_as_it_was_stored(store):
    plan = next_plan()
    kept = account(
        panel_user(next_plan=plan, admin="reseller", status=Status.ON_HOLD),
        published_bytes=5,
        remembered_limits=(4, 5),
        is_disabled_by_us=True,
        echo_until=NOW,
        restoration=Restoration(status=Status.ON_HOLD, next_plan=plan),
        reset_request=ResetRequest(cause="asked", actor="root", total_bytes=9, requested_at=NOW),
    )
    store.save(kept, at=NOW)
    assert store.account("alice") == kept
    assert list(store.accounts(admin="reseller")) == [kept]
    assert list(store.accounts(admin="other")) == []


def test_everything_survives_closing_the_file(tmp_path):
    path = tmp_path / "bridge.sqlite3"
    first = Store(path)
    first.save(account(), [Event(kind="adopted", text="hello")], at=NOW)
    first.record_usage([change("alice", gib(7), 12)], cursor=12)
    first.close()
    second = Store(path)
    assert second.account("alice") == account()
    assert (second.cursor, second.total_bytes("alice")) == (12, gib(7))
    assert [(each.username, each.event.kind, each.at) for each in second.events()] == [
        ("alice", "adopted", NOW)
    ]
    second.close()


def test_usage_is_summed_over_all_spellings_of_a_name(store):
    touched = store.record_usage([change("Alice", 5, 1), change("alice", 7, 2)], cursor=2)
    assert touched == ["alice"]
    assert store.total_bytes("alice") == 12
    assert store.spellings("alice") == ["alice", "Alice"]
    store.record_usage([change("Alice", 6, 3)], cursor=3)
    assert store.total_bytes("alice") == 13
    assert store.spellings("alice") == ["Alice", "alice"]


def test_an_unknown_name_is_news_once_and_no_orphan_once_it_has_an_account(store):
    store.record_usage([change("alice", 5, 1)], cursor=1)
    event = Event(kind="orphan", text="unknown")
    assert store.record_orphan("alice", username="alice", event=event, at=NOW)
    assert not store.record_orphan("alice", username="alice", event=event, at=NOW)
    assert [(each.username, each.total_bytes) for each in store.orphans()] == [("alice", 5)]
    store.save(account(), at=NOW)
    assert not store.is_orphan("alice")
    assert store.counts() == {"accounts": 1, "orphans": 0, "held": 0}


def test_a_deleted_users_name_is_an_orphan(store):
    store.save(account(), at=NOW)
    store.forget("alice", Event(kind="deleted", text="gone"), username="alice", at=NOW)
    assert store.account("alice") is None
    assert store.is_orphan("alice")


def test_a_redelivered_webhook_is_no_news(store):
    assert store.announce([(b"1", "alice"), (b"2", "bob")], at=NOW, remember_seconds=60) == [
        "alice",
        "bob",
    ]
    assert store.announce([(b"1", "alice")], at=NOW, remember_seconds=60) == []
    later = NOW + timedelta(seconds=61)
    assert store.announce([(b"1", "alice")], at=later, remember_seconds=60) == ["alice"]


def test_an_announcement_waits_until_its_account_is_stored(store):
    store.announce([(b"1", "alice")], at=NOW, remember_seconds=60)
    assert store.is_announced("alice")
    store.save(account(), at=NOW)
    assert not store.is_announced("alice")


def test_a_reset_of_all_users_is_remembered_by_owner(store):
    store.record_reset_all(None, at=NOW)
    assert store.reset_all_at(None) == NOW
    assert store.reset_all_at("reseller") is None


def test_accounts_are_found_by_their_owner_and_without_one(store):
    store.save(account(panel_user(username="a", admin="reseller")), at=NOW)
    store.save(account(panel_user(username="b")), at=NOW)
    assert store.keys_of_owner("reseller") == ["a"]
    assert store.keys_of_owner(None) == ["b"]


def test_keys_are_paged_over_reported_names_and_accounts(store):
    store.record_usage([change(name, 1, seq) for seq, name in enumerate("ecab")], cursor=4)
    store.save(account(panel_user(username="D")), at=NOW)
    assert store.keys(limit=3) == ["a", "b", "c"]
    assert store.keys(after="c", limit=3) == ["d", "e"]
    assert store.is_known("d")
    assert not store.is_known("x")


def test_forgetting_usage_begins_the_feed_anew(store):
    store.record_usage([change("alice", 5, 9)], cursor=9)
    store.forget_usage(ledger_id="other")
    assert (store.cursor, store.total_bytes("alice"), store.meta("ledger_id")) == (0, 0, "other")


def test_a_second_writer_is_refused_and_told_who_has_the_file(tmp_path, store):
    with pytest.raises(StoreError, match=r"in use by another process \(pid \d+\)"):
        Store(tmp_path / "bridge.sqlite3")


def test_reading_beside_the_writer_is_possible_and_writing_is_not(tmp_path, store):
    store.save(account(), at=NOW)
    reader = Store(tmp_path / "bridge.sqlite3", read_only=True)
    assert reader.account("alice") == account()
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
    with pytest.raises(StoreError, match=r"restore a backup\. Without one"):
        Store(path)


def test_a_failed_transaction_leaves_nothing_behind(store):
    with pytest.raises(OverflowError):
        store.record_usage([change("alice", 5, 1), change("bob", 2**70, 2)], cursor=2)
    assert (store.cursor, store.total_bytes("alice")) == (0, 0)
