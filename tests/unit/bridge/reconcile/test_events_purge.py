"""Which old events are still needed, and stay."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace

import pytest

from marzban_bridge.quota.account import Event
from marzban_bridge.reconcile.events_purge import EventsPurge
from marzban_bridge.reconcile.standstill import Standstill
from marzban_bridge.store.store import Store
from tests.support.bridge.bridge_builders import NOW


@dataclass
class Purged:
    """A store with ten events, all of them old, and what is known of it elsewhere."""

    store: Store
    reported: int = 10
    written: int | None = None

    def purge(self):
        purge = EventsPurge(
            store=self.store,
            rollback_check=SimpleNamespace(confirmed_position=self.reported),
            written_through=None if self.written is None else lambda: self.written,
            retention=timedelta(days=90),
            standstill=Standstill(),
            clock=lambda: NOW + timedelta(days=91),
        )
        while purge.purge_page():
            pass
        return [each.seq for each in self.store.events.after(0, limit=100)]


@pytest.fixture
def purged(tmp_path):
    store = Store(tmp_path / "bridge.sqlite3")
    for _ in range(10):
        store.events.record("alice", Event(kind="published", text="a limit"), at=NOW)
    yield Purged(store)
    store.close()


def test_the_newest_event_stays_since_the_collector_knows_the_store_by_it(purged):
    assert purged.purge() == [10]


def test_events_from_the_reported_one_on_stay_however_old(purged):
    purged.reported = 4
    assert purged.purge() == [4, 5, 6, 7, 8, 9, 10]


def test_nothing_is_purged_before_the_position_is_reported(purged):
    purged.reported = -1
    assert purged.purge() == list(range(1, 11))


def test_events_that_influxdb_does_not_have_stay(purged):
    purged.written = 7
    assert purged.purge() == [8, 9, 10]


def test_a_suspended_store_is_left_as_it_is(purged):
    purged.store.suspend("a backup", Event(kind="conflict", text="a backup"), at=NOW)
    assert purged.purge() == list(range(1, 12))
