"""Several senders of one spool: each item is sent by one of them, whatever becomes of the others."""

from __future__ import annotations

import sqlite3

import pytest

from collector.client.outbox import Settlement
from collector.client.sending import process_identity
from collector.client.sending.process_identity import (
    has_ended,
    this_boot,
    this_process,
)
from collector.client.spool import claims
from collector.client.spool.clock import SpoolClock
from collector.client.spool.spool import REPORTS, Spool
from collector.runtime import boot_clock
from tests.support.collector.filled_spools import ids, spool_of_ten, take

HOUR = 3_600_000


@pytest.fixture
def spool(tmp_path):
    with spool_of_ten(tmp_path / "spool") as opened:
        yield opened


def test_what_one_sender_has_no_other_one_gets_until_it_is_settled_or_given_back(spool):
    one, two, three = (spool.lane(REPORTS) for _ in range(3))
    first = take(one)
    assert (ids(first), ids(take(two)), ids(take(three, 9))) == ("012", "345", "6789")
    assert take(spool.lane(REPORTS)) == []
    two.give_back()
    one.settle(Settlement(done=first[:2]))
    assert ids(take(spool.lane(REPORTS), 9)) == "2345"


def test_a_sender_gets_again_what_it_has_itself(spool):
    lane = spool.lane(REPORTS)
    assert ids(take(lane)) == "012"
    assert ids(take(lane, 5)) == "01234"
    assert ids(take(spool.lane(REPORTS), 1)) == "5"


def test_what_is_taken_has_no_gap_where_others_items_are(spool):
    one, two, three = (spool.lane(REPORTS) for _ in range(3))
    take(one)
    take(two)
    one.give_back()
    assert ids(take(three, 9)) == "012", "the fourth is another sender's"


def test_lanes_have_nothing_to_do_with_each_other(spool):
    spool.put("relay", [("x", b"1")])
    take(spool.lane(REPORTS), 9)
    assert ids(take(spool.lane("relay"))) == "x"


def test_a_claim_ends_with_its_lease(spool, monkeypatch):
    take(spool.lane(REPORTS, lease_seconds=10), 10)
    late = boot_clock.millis_now() + 10_001
    assert take(spool.lane(REPORTS)) == []
    monkeypatch.setattr(boot_clock, "millis_now", lambda: late)
    assert ids(take(spool.lane(REPORTS))) == "012"


def test_a_spool_that_is_closed_and_opened_again_in_the_process_has_all_of_it(spool):
    other = Spool(spool.path)
    take(other.lane(REPORTS))
    other.close()
    assert ids(take(spool.lane(REPORTS), 4)) == "0123"


def test_claims_of_an_earlier_run_of_the_machine_are_over(spool, monkeypatch):
    take(spool.lane(REPORTS), 10)
    monkeypatch.setattr(process_identity, "this_boot", lambda: "another")
    assert ids(take(spool.lane(REPORTS))) == "012"


def test_a_full_disk_stops_no_sender(spool, monkeypatch):
    """A claim needs room, which a spool that is emptied on a full disk does not have."""

    def fail(*_):
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setattr(claims, "claim", fail)
    lane = spool.lane(REPORTS)
    items = take(lane)
    assert ids(items) == "012"
    lane.settle(Settlement(done=items))
    assert ids(take(lane)) == "345"


def test_a_process_is_told_from_a_later_one_of_its_number():
    boot, namespace, pid, started = this_process().split(" ")
    assert not has_ended(this_process())
    assert has_ended(f"{boot} {namespace} {pid} {int(started) + 1}")
    assert has_ended(f"another-boot {namespace} {pid} {started}")
    assert not has_ended(f"{boot} pid:[1] 999999999 1"), "another container's: nothing is known"
    assert not has_ended(f"{boot} {namespace} {pid} -")
    assert has_ended(f"{boot} {namespace} 999999999 -")


class TestWhetherItWasSentBefore:
    def test_is_known_of_what_was_never_taken(self, spool):
        assert all(each.is_untried for each in take(spool.lane(REPORTS)))

    def test_is_not_known_once_it_was_taken(self, spool):
        lane = spool.lane(REPORTS)
        take(lane)
        lane.give_back()
        assert [each.is_untried for each in take(lane, 5)] == [False] * 3 + [True] * 2

    def test_is_known_of_what_did_not_leave_the_machine(self, spool):
        lane = spool.lane(REPORTS)
        take(lane)
        lane.give_back(is_unsent=True)
        assert all(each.is_untried for each in take(lane))

    def test_is_not_known_while_another_sender_has_later_ones(self, spool):
        one, two = spool.lane(REPORTS), spool.lane(REPORTS)
        take(one)
        take(two)
        one.give_back(is_unsent=True)
        assert not any(each.is_untried for each in take(one))

    def test_is_not_known_of_what_a_sender_had_that_ended(self, spool):
        take(spool.lane(REPORTS, lease_seconds=0))
        assert not any(each.is_untried for each in take(spool.lane(REPORTS)))


class TestAClockThatIsSet:
    NOW = SpoolClock(wall_millis=50 * HOUR, boot_millis=3 * HOUR, boot="this")

    @pytest.mark.parametrize(
        ("written_millis", "boot", "queued_boot_millis", "moment_millis"),
        [
            (48 * HOUR, "this", 1 * HOUR, 48 * HOUR),
            (0, "this", 1 * HOUR, 48 * HOUR),  # it showed 1970, and was set since
            (49 * HOUR, "this", 1 * HOUR, 48 * HOUR),  # it was an hour ahead
            (48 * HOUR + 59_000, "this", 1 * HOUR, 48 * HOUR + 59_000),  # it drifted
            (0, "an earlier one", 1 * HOUR, 0),
            (0, None, None, 0),  # of an earlier version
        ],
    )
    def test_gives_what_was_queued_its_moment(
        self, written_millis, boot, queued_boot_millis, moment_millis
    ):
        assert self.NOW.corrected(written_millis, boot, queued_boot_millis) == moment_millis

    def test_while_reports_wait_in_a_spool(self, tmp_path):
        clock = [0]
        spool = Spool(tmp_path / "spool", now_millis=lambda: clock[0])
        spool.put(REPORTS, [("a", b"1")])
        clock[0] = 50 * HOUR
        (item,) = spool.first(REPORTS, most_items=1, most_bytes=100)
        assert 50 * HOUR - item.queued_at_millis < 60_000
        oldest_millis = spool.backlog().oldest_at.timestamp() * 1000
        assert abs(oldest_millis - item.queued_at_millis) < 60_000
        assert this_boot()
        spool.close()
