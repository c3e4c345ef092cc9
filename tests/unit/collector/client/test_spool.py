"""The spool: durable, bounded, shared, and never replaced by an empty one."""

from __future__ import annotations

import sqlite3
import stat
from datetime import UTC, datetime

import pytest

from collector.client.errors import ReportError, SpoolError, SpoolFullError
from collector.client.outbox import SetAside, Settlement
from collector.client.report import Report, completed, decode, encode
from collector.client.spool.reserve import Reserve
from collector.client.spool.spool import ITEM_OVERHEAD_BYTES, REPORTS, Spool

NOON_MILLIS = 1_795_521_600_000
NOON = datetime.fromtimestamp(NOON_MILLIS / 1000, tz=UTC)


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path / "deep" / "spool.sqlite3", now_millis=lambda: NOON_MILLIS)
    yield spool
    spool.close()


def first(spool, lane=REPORTS, most_items=100, most_bytes=10**6):
    return spool.first(lane, most_items=most_items, most_bytes=most_bytes)


def ids(items):
    return [each.item_id for each in items]


def test_items_come_out_in_the_order_they_went_in_by_lane(spool):
    spool.put(REPORTS, [("a", b"1"), ("b", b"2")])
    spool.put("relay", [("x", b"9")])
    spool.put(REPORTS, [("c", b"3")])
    assert ids(first(spool)) == ["a", "b", "c"]
    assert ids(first(spool, "relay")) == ["x"]
    assert ids(first(spool, most_items=2)) == ["a", "b"]


def test_a_request_holds_what_fits_and_at_least_one(spool):
    spool.put(REPORTS, [("a", b"1" * 50), ("b", b"2" * 50), ("c", b"3")])
    assert ids(first(spool, most_bytes=100)) == ["a", "b"]
    assert ids(first(spool, most_bytes=10)) == ["a"]


def test_the_backlog_says_how_much_waits_since_when_and_what_was_set_aside(spool):
    assert spool.backlog().oldest_at is None
    spool.put(REPORTS, [("a", b"12345"), ("b", b"1")])
    spool.put("relay", [("x", b"1")])
    backlog = spool.backlog()
    assert (backlog.items, backlog.size_bytes) == (3, 7 + 3 * ITEM_OVERHEAD_BYTES)
    assert backlog.oldest_at == NOON
    a, b = first(spool)
    spool.settle(REPORTS, Settlement(done=[a], set_aside=[SetAside(b, "server is too long")]))
    assert spool.backlog(REPORTS).items == 0
    assert spool.backlog(REPORTS).set_aside_total == 1
    assert spool.backlog().items == 1
    (letter,) = spool.dead_letters()
    assert (letter.item_id, letter.reason, letter.body) == ("b", "server is too long", b"1")


def test_what_another_process_settled_is_not_settled_twice(spool):
    spool.put(REPORTS, [("a", b"1")])
    (a,) = first(spool)
    other = Spool(spool.path)
    other.settle(REPORTS, Settlement(done=[a]))
    other.close()
    spool.settle(REPORTS, Settlement(set_aside=[SetAside(a, "late")]))
    assert spool.backlog().items == spool.backlog().size_bytes == 0
    assert spool.dead_letters() == []


def test_a_full_spool_refuses_all_of_what_does_not_fit_and_keeps_what_it_has(tmp_path):
    spool = Spool(tmp_path / "spool", max_bytes=3 * (ITEM_OVERHEAD_BYTES + 10))
    spool.put(REPORTS, [("a", b"0123456789")])
    with pytest.raises(SpoolFullError, match="is full"):
        spool.put(REPORTS, [(name, b"0123456789") for name in "bcd"])
    assert ids(first(spool)) == ["a"]
    spool.put(REPORTS, [(name, b"0123456789") for name in "bc"])
    spool.settle(REPORTS, Settlement(done=first(spool)))
    spool.put(REPORTS, [("d", b"0123456789")])
    assert ids(first(spool)) == ["d"]
    spool.close()


def set_aside_all(spool, reason="is refused"):
    spool.settle(REPORTS, Settlement(set_aside=[SetAside(each, reason) for each in first(spool)]))


def test_what_was_set_aside_is_never_dropped_and_counts_against_the_bound(tmp_path):
    spool = Spool(tmp_path / "spool", max_bytes=3 * (ITEM_OVERHEAD_BYTES + 10))
    spool.put(REPORTS, [(name, b'{"a": 123}') for name in "abc"])
    set_aside_all(spool)
    backlog = spool.backlog()
    assert (backlog.items, backlog.set_aside_total) == (0, 3)
    assert backlog.set_aside_bytes == 3 * (ITEM_OVERHEAD_BYTES + 10)
    with pytest.raises(SpoolFullError, match=r"0 are queued, 318 are dead letters"):
        spool.put(REPORTS, [("d", b"0")])
    assert [each.item_id for each in spool.dead_letters()] == ["c", "b", "a"]
    assert spool.requeue_dead_letters() == 3, "they are within the bound already"
    assert (spool.backlog().items, spool.backlog().set_aside_bytes) == (3, 0)
    set_aside_all(spool)
    assert spool.discard_dead_letters() == 3
    assert spool.dead_letters() == []
    spool.put(REPORTS, [(name, b'{"a": 123}') for name in "efg"])
    assert spool.backlog().set_aside_total == 6, "how many there ever were stays known"
    spool.close()


def test_more_dead_letters_than_anybody_reads_are_all_kept(spool):
    for start in range(0, 12_000, 4_000):
        spool.put(REPORTS, [(str(number), b"1") for number in range(start, start + 4_000)])
        spool.settle(
            REPORTS,
            Settlement(set_aside=[SetAside(each, "?") for each in first(spool, most_items=4_000)]),
        )
    assert len(spool.dead_letters(limit=20_000)) == 12_000


def put_back_to(version, path):
    """Make of a spool's file one of an earlier version."""
    db = sqlite3.connect(path)
    if version < 3:
        db.execute("DROP TABLE claim")
        db.execute("ALTER TABLE item DROP COLUMN boot")
        db.execute("ALTER TABLE item DROP COLUMN queued_boot_millis")
        db.execute("ALTER TABLE backlog DROP COLUMN tried_seq")
    if version < 2:
        db.execute("ALTER TABLE backlog DROP COLUMN set_aside_bytes")
    db.execute(f"PRAGMA user_version = {version}")
    db.commit()
    db.close()


@pytest.mark.parametrize("version", [1, 2])
def test_a_spool_of_an_earlier_version_is_brought_forward_with_all_that_is_in_it(tmp_path, version):
    path = tmp_path / "spool"
    spool = Spool(path, now_millis=lambda: NOON_MILLIS)
    spool.put(REPORTS, [("a", b"0123"), ("b", b"01")])
    set_aside_all(spool)
    spool.put(REPORTS, [("c", b"1"), ("d", b"1")])
    spool.close()
    put_back_to(version, path)
    spool = Spool(path)
    assert spool.backlog().set_aside_bytes == 6 + 2 * ITEM_OVERHEAD_BYTES
    assert spool.backlog().set_aside_total == 2
    spool.put(REPORTS, [("e", b"1")])
    items = spool.lane(REPORTS).first(most_items=9, most_bytes=100)
    assert ids(items) == ["c", "d", "e"]
    assert [each.is_untried for each in items] == [False, False, True], "what is old may be known"
    assert [each.queued_at_millis for each in items][:2] == [NOON_MILLIS, NOON_MILLIS]
    spool.close()


def test_the_reserve_is_taken_given_back_and_taken_again(tmp_path):
    reserve = Reserve(tmp_path / "spool", size_bytes=5000)
    file = tmp_path / "spool.reserve"
    assert not reserve.give_back()
    assert reserve.take()
    assert reserve.take()
    assert (file.stat().st_size, stat.S_IMODE(file.stat().st_mode)) == (5000, 0o600)
    assert file.stat().st_blocks * 512 >= 5000, "it takes room, it is no hole"
    assert reserve.give_back()
    assert not file.exists()
    assert not Reserve(tmp_path / "absent" / "spool").take()


def test_what_belongs_together_is_kept_together_or_not_at_all(spool):
    def put_and_fail():
        with spool.transaction() as db:
            spool.put_within(db, REPORTS, [("a", b"1")])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        put_and_fail()
    assert first(spool) == []


def test_its_file_is_for_its_owner_alone(spool):
    assert stat.S_IMODE(spool.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"not a database, but long enough to be read as one" * 40])
def test_a_file_that_is_no_spool_is_left_alone(tmp_path, content):
    path = tmp_path / "spool"
    path.write_bytes(content)
    with pytest.raises(SpoolError, match="damaged"):
        Spool(path)
    assert path.read_bytes() == content


def test_a_foreign_or_newer_database_is_refused(tmp_path):
    db = sqlite3.connect(tmp_path / "foreign")
    db.execute("CREATE TABLE t (x)")
    db.close()
    with pytest.raises(SpoolError, match="not a spool"):
        Spool(tmp_path / "foreign")
    Spool(tmp_path / "newer").close()
    db = sqlite3.connect(tmp_path / "newer")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(SpoolError, match="newer"):
        Spool(tmp_path / "newer")


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="cannot open the spool"):
        Spool(tmp_path / "file" / "spool")


def report(**changes):
    fields = {"user": "alice", "server": "de-1", "upload_bytes": 1, "download_bytes": 2}
    return Report(**fields | changes)


def test_dead_letters_are_queued_again_under_their_ids_without_their_moment(spool):
    body = encode(report(reported_at=NOON), report_id="a")
    spool.put(REPORTS, [("a", body)])
    spool.settle(REPORTS, Settlement(set_aside=[SetAside(first(spool)[0], "is too old")]))
    assert spool.requeue_dead_letters() == 1
    (again,) = first(spool)
    assert again.is_undated
    assert decode(again.body) == report(report_id="a")
    assert spool.dead_letters() == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"server": ""}, "server"),
        ({"server": "x" * 256}, "server"),
        ({"server": "a\nb"}, "server"),
        ({"user": "\ud800"}, "user"),
        ({"user": "back\\"}, "user"),
        ({"user": "alice "}, "user"),
        ({"upload_bytes": -1}, "upload_bytes"),
        ({"download_bytes": True}, "download_bytes"),
        ({"download_bytes": 1.0}, "download_bytes"),
        ({"port": 65536}, "port"),
        ({"reported_at": datetime(2026, 1, 1)}, "reported_at"),  # noqa: DTZ001 - the point
        ({"report_id": ""}, "report_id"),
    ],
)
def test_a_report_nobody_would_take_is_an_error_where_it_is_made(changes, field):
    with pytest.raises(ReportError, match=f"^{field}: "):
        report(**changes)


def test_secret_and_moment_are_added_when_a_report_is_sent_and_not_before():
    body = encode(report(user=None), report_id="a")
    assert b"reported_at" not in body
    assert decode(completed(body, subscription=None, queued_at_millis=None)).user is None
    sent = decode(completed(body, subscription="https://p/sub/TOKEN", queued_at_millis=NOON_MILLIS))
    assert (sent.user, sent.reported_at) == ("https://p/sub/TOKEN", NOON)


def test_a_moment_the_report_names_itself_stays():
    other = datetime(2026, 1, 1, tzinfo=UTC)
    body = encode(report(reported_at=other, server='"reported_at":'), report_id="a")
    assert (
        decode(completed(body, subscription=None, queued_at_millis=NOON_MILLIS)).reported_at
        == other
    )
    tricky = encode(report(server='"reported_at":'), report_id="a")
    assert (
        decode(completed(tricky, subscription=None, queued_at_millis=NOON_MILLIS)).reported_at
        == NOON
    )
