"""What every ledger promises of corrections: taken out of all sums once, and known by its number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from collector.influx.points import raw_page
from collector.ledger.backend import LedgerBackend
from collector.ledger.corrections import Correction, Kind, Stretch, Wanted
from collector.ledger.engines import backend_of
from collector.ledger.ports import Ledger, LedgerReader
from tests.support.collector.ledgers import (
    DAY,
    NOON_MILLIS,
    Place,
    PostgresPlace,
    SqlitePlace,
    batch,
    report,
)
from tests.support.engines.postgres_server import PostgresServer

LATER_MILLIS = NOON_MILLIS + 3_600_000
FOR_EVER = {"since_millis": 0, "until_millis": 10 * NOON_MILLIS}


class Home:
    """A ledger's place, opened for writing and reading, and asked from outside."""

    def __init__(self, place: Place, url: str) -> None:
        self.place = place
        self.outside: LedgerBackend = backend_of(url)


@pytest.fixture(params=["sqlite", "postgres"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.url(server.new_database())
        return Home(PostgresPlace(url=url), url)
    path = tmp_path / "ledger.sqlite3"
    return Home(SqlitePlace(path=path), f"sqlite:///{path}")


@pytest.fixture
def ledger(home: Home) -> Iterator[Ledger]:
    with closing(home.place.open()) as opened:
        yield opened


@pytest.fixture
def reader(home: Home, ledger: Ledger) -> Iterator[LedgerReader]:
    with closing(home.place.reader()) as opened:
        yield opened


def void(reporter: str = "reporter:r", **changes: object) -> Wanted:
    return Wanted(
        kind=Kind.VOID, reason="stolen key", actor="root", scope=reporter, **(FOR_EVER | changes)
    )


def adjust(username: str, raw_bytes: int, **changes: object) -> Wanted:
    return Wanted(
        kind=Kind.ADJUST,
        reason="spike",
        actor="root",
        username=username,
        raw_bytes=raw_bytes,
        **({"billed_bytes": raw_bytes} | changes),
    )


def carry_out(home: Home, ledger: Ledger, wanted: Wanted, **limits: int) -> Correction:
    number = home.outside.ask_correction(wanted, asked_at_millis=NOON_MILLIS)
    while ledger.correct(now_millis=LATER_MILLIS, **limits):
        pass
    with closing(home.place.reader()) as reader:
        return next(it for it in reader.corrections(limit=100) if it.number == number)


def net(reader: LedgerReader) -> dict[str, tuple[int, int]]:
    """Return users' raw and billed bytes less what was taken back."""
    return {
        it.username: (
            it.upload_bytes
            + it.download_bytes
            + it.corrected_upload_bytes
            + it.corrected_download_bytes,
            it.billed_bytes + it.corrected_billed_bytes,
        )
        for it in reader.changes(after=0, limit=1000).changes
    }


def gross(reader: LedgerReader) -> dict[str, tuple[int, int]]:
    return {
        it.username: (it.upload_bytes + it.download_bytes, it.billed_bytes)
        for it in reader.changes(after=0, limit=1000).changes
    }


def test_a_void_takes_what_was_stored_out_of_all_sums_and_leaves_the_totals(home, ledger, reader):
    ledger.record(
        [
            batch(
                report("alice", up=1, down=2, key="a", billed=9),
                report("alice", up=100, down=0, server="nl-1", connections=3),
                report("bob", up=5, down=5),
            ),
            batch(report("alice", up=1000, down=0, key="b"), reporter="reporter:honest"),
        ],
        received_at_millis=NOON_MILLIS,
    )
    done = carry_out(home, ledger, void(username="alice"))
    assert (done.reports, done.upload_bytes, done.download_bytes) == (2, -101, -2)
    assert (done.billed_bytes, done.done_at_millis) == (-109, LATER_MILLIS)
    assert net(reader) == {"alice": (1000, 1000), "bob": (10, 10)}
    assert gross(reader) == {"alice": (1103, 1109), "bob": (10, 10)}
    assert [
        (it.server, it.upload_bytes, it.users) for it in reader.servers_of("alice", since_day=None)
    ] == [("de-1", 1000, 1)]
    assert [it.server for it in reader.servers_of(None, since_day=DAY)] == ["de-1"]
    summary = reader.summary(since_day=DAY)
    assert (summary.upload_bytes, summary.reports, summary.connections) == (1005, 2, 2)
    assert reader.facts().billed_bytes == 1010
    audit = reader.audit()
    assert (audit.problems, audit.user_bytes, audit.series_bytes, audit.day_bytes) == (
        [],
        1010,
        1010,
        1010,
    )
    assert (audit.reports, audit.correction_lines, audit.corrected_bytes) == (2, 2, -103)


def test_the_feed_names_a_corrected_user_again_at_the_number_of_its_newest_line(
    home, ledger, reader
):
    ledger.record([batch(report("alice"), report("bob"))], received_at_millis=NOON_MILLIS)
    carry_out(home, ledger, void(username="alice"))
    page = reader.changes(after=2, limit=10)
    (alice,) = page.changes
    assert (alice.username, alice.change_seq, alice.corrected_seq, page.head) == ("alice", 3, 3, 3)


def test_voiding_twice_voids_nothing_more_and_its_id_stays_known(home, ledger, reader):
    sent = batch(report("alice", key="a"))
    ledger.record([sent], received_at_millis=NOON_MILLIS)
    carry_out(home, ledger, void())
    again = carry_out(home, ledger, void())
    assert (again.reports, again.done_at_millis) == (0, LATER_MILLIS)
    (receipt,) = ledger.record([sent], received_at_millis=LATER_MILLIS)
    assert (receipt.accepted, receipt.duplicates) == (0, 1)
    assert net(reader) == {"alice": (0, 0)}
    assert reader.preview(void()).voided_before == 1


def test_a_void_is_of_one_reporter_and_of_a_stretch_of_time(home, ledger, reader):
    for minute, reporter in enumerate(["reporter:r", "reporter:r", "reporter:x", "import:r"]):
        ledger.record(
            [batch(report("alice", up=10**minute, down=0), reporter=reporter)],
            received_at_millis=NOON_MILLIS + minute,
        )
    carry_out(home, ledger, void(since_millis=NOON_MILLIS + 1, until_millis=NOON_MILLIS + 10))
    assert net(reader) == {"alice": (1101, 1101)}
    carry_out(home, ledger, void("import:r"))
    assert net(reader) == {"alice": (101, 101)}


def test_a_preview_says_whose_and_how_many_bytes_a_void_would_take(home, ledger, reader):
    ledger.record(
        [batch(report("alice", billed=7), report("bob", up=50), report("bob", up=50))],
        received_at_millis=NOON_MILLIS,
    )
    found = reader.preview(void())
    assert [(it.username, it.reports, it.upload_bytes, it.billed_bytes) for it in found.users] == [
        ("bob", 2, 100, 104),
        ("alice", 1, 1, 7),
    ]
    assert (found.voided_before, found.kept_since_millis) == (0, NOON_MILLIS)
    assert reader.corrections(limit=10) == []


def test_reports_that_are_in_no_sum_yet_are_voided_too(home, ledger, reader):
    ledger.record(
        [batch(report("alice", up=40, down=0))], received_at_millis=NOON_MILLIS, defers_sums=True
    )
    carry_out(home, ledger, void())
    assert net(reader) == {"alice": (0, 0)}
    assert reader.audit().problems == []


def test_a_void_is_carried_out_in_steps_and_goes_on_where_it_was(home, ledger, reader):
    ledger.record(
        [batch(*(report(f"user{n % 3}") for n in range(10)))], received_at_millis=NOON_MILLIS
    )
    home.outside.ask_correction(void(), asked_at_millis=NOON_MILLIS)
    assert ledger.correct(now_millis=LATER_MILLIS, limit=4)
    (begun,) = reader.corrections(limit=10)
    assert (begun.reports, begun.done_at_millis) == (4, None)
    assert reader.audit().problems == []
    ledger.close()
    with closing(home.place.open()) as again:
        while again.correct(now_millis=LATER_MILLIS, limit=4):
            pass
        (done,) = reader.corrections(limit=10)
        assert (done.reports, done.raw_bytes) == (10, -30)
        assert reader.audit().problems == []
        assert set(net(reader).values()) == {(0, 0)}


def test_the_point_of_a_voided_report_is_overwritten_with_zeros(home, ledger, reader):
    ledger.record([batch(report("alice"), report("alice"))], received_at_millis=NOON_MILLIS)
    before = raw_page(reader.reports_after(0, limit=10), oldest_millis=0).lines
    carry_out(home, ledger, void())
    after = raw_page(reader.reports_after(2, limit=10), oldest_millis=0).lines
    assert [line.rpartition(" ")[2] for line in after] == [
        line.rpartition(" ")[2] for line in before
    ]
    assert all("upload_bytes=0i,download_bytes=0i,billed_bytes=0i" in line for line in after)
    (day,) = reader.days_after(2, limit=10)
    assert (day.upload_bytes, day.billed_bytes, day.reports, day.change_seq) == (0, 0, 0, 4)


def test_an_adjustment_adds_to_a_user_or_takes_off(home, ledger, reader):
    ledger.record([batch(report("alice", up=100, down=0))], received_at_millis=NOON_MILLIS)
    done = carry_out(home, ledger, adjust("alice", -30, billed_bytes=-60))
    assert (done.raw_bytes, done.billed_bytes, done.problem) == (-30, -60, None)
    assert net(reader) == {"alice": (70, 40)}
    carry_out(home, ledger, adjust("alice", 5))
    assert net(reader) == {"alice": (75, 45)}
    shown = {it.server: it.download_bytes for it in reader.servers_of("alice", since_day=None)}
    assert shown == {"de-1": 0, "adjustment": -25}
    assert reader.audit().problems == []
    lines = raw_page(reader.reports_after(1, limit=10), oldest_millis=0).lines
    assert "download_bytes=-30i,billed_bytes=-60i" in lines[0]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (adjust("alice", -4), "alice has 3 bytes in all, less than 4"),
        (adjust("alice", -1, billed_bytes=-4), "alice has 3 billed bytes in all, less than 4"),
        (adjust("nobody", 1), "no report has named a user nobody"),
        (adjust("alice", 2**62), "alice would have more bytes than a ledger can hold"),
    ],
)
def test_an_adjustment_that_cannot_be_true_changes_nothing(home, ledger, reader, wanted, words):
    ledger.record([batch(report("alice"))], received_at_millis=NOON_MILLIS)
    done = carry_out(home, ledger, wanted)
    assert (done.problem, done.done_at_millis) == (words, LATER_MILLIS)
    assert net(reader) == {"alice": (3, 3)}
    assert reader.audit().problems == []


def test_an_adjustment_of_a_day_is_of_that_day(home, ledger, reader):
    ledger.record(
        [batch(report("alice", up=100, down=0, at=NOON_MILLIS - 3 * 86_400_000))],
        received_at_millis=NOON_MILLIS,
    )
    wanted = adjust(
        *("alice", -40),
        since_millis=NOON_MILLIS - 3 * 86_400_000,
        server="de-1",
        port=443,
        protocol="vless",
    )
    carry_out(home, ledger, wanted)
    (day,) = reader.days_after(0, limit=10)
    assert (day.day, day.upload_bytes + day.download_bytes, day.reports) == (DAY - 3, 60, 1)


def test_what_a_cleanup_dropped_of_a_day_is_not_taken_off_it_again(home, ledger, reader):
    old = NOON_MILLIS - 3 * 86_400_000
    ledger.record([batch(report("alice", up=100, at=old))], received_at_millis=NOON_MILLIS)
    assert ledger.forget_days(before_day=DAY - 1, limit=10) == 1
    late = batch(report("alice", up=7, down=0, at=old), reporter="reporter:late")
    ledger.record([late], received_at_millis=NOON_MILLIS)
    carry_out(home, ledger, void())
    (day,) = reader.days_after(0, limit=10)
    assert (day.upload_bytes, day.reports) == (7, 1)
    assert net(reader) == {"alice": (7, 7)}
    carry_out(home, ledger, void("reporter:late"))
    (day,) = reader.days_after(0, limit=10)
    assert (day.upload_bytes, day.reports) == (0, 0)
    assert reader.audit().problems == []


def stretch(username: str = "alice", **changes: int | None) -> Stretch:
    return Stretch(
        **{
            "username": username,
            "after_seq": 0,
            "through_seq": 1000,
            "period_seq": None,
            "period_since_millis": 0,
        }
        | changes
    )


def test_what_is_of_a_period_is_told_by_the_numbers_of_what_was_voided(home, ledger, reader):
    for amount in (1, 10, 100):  # all at the same moment
        ledger.record(
            [batch(report("alice", up=amount, down=0, billed=2 * amount))],
            received_at_millis=NOON_MILLIS,
        )
    carry_out(home, ledger, void())
    found = {
        seq: (it.period_billed_bytes, it.period_raw_bytes)
        for seq in (0, 1, 2, 3)
        for it in [reader.corrected_sum(stretch(period_seq=seq))]
    }
    assert found == {0: (-222, -111), 1: (-220, -110), 2: (-200, -100), 3: (0, 0)}
    whole = reader.corrected_sum(stretch(period_seq=3))
    assert (whole.billed_bytes, whole.raw_bytes) == (-222, -111)
    assert [it.wanted.reason for it in whole.corrections] == ["stolen key"]


def test_a_reader_asks_for_the_lines_behind_those_that_it_has(home, ledger, reader):
    ledger.record([batch(report("alice"), report("alice"))], received_at_millis=NOON_MILLIS)
    carry_out(home, ledger, void())  # lines 3 and 4
    parts = [
        reader.corrected_sum(stretch(after_seq=after, through_seq=through)).raw_bytes
        for after, through in ((0, 2), (2, 3), (3, 4), (4, 1000))
    ]
    assert parts == [0, -3, -3, 0]
    assert reader.corrected_sum(stretch("bob")).raw_bytes == 0


def test_without_a_number_the_time_of_receipt_says_which_period(home, ledger, reader):
    for minute in range(3):
        ledger.record(
            [batch(report("alice", up=10**minute, down=0))], received_at_millis=NOON_MILLIS + minute
        )
    carry_out(home, ledger, void())
    found = reader.corrected_sum(stretch(period_since_millis=NOON_MILLIS + 1))
    assert (found.period_raw_bytes, found.raw_bytes) == (-110, -111)


def test_an_adjustment_is_of_the_period_of_its_number_or_of_its_day(home, ledger, reader):
    ledger.record([batch(report("alice", up=1000))], received_at_millis=NOON_MILLIS)
    carry_out(home, ledger, adjust("alice", -1))  # line 2
    carry_out(home, ledger, adjust("alice", -10, since_millis=NOON_MILLIS - 86_400_000))
    found = {
        (seq, since): reader.corrected_sum(
            stretch(period_seq=seq, period_since_millis=since)
        ).period_raw_bytes
        for seq in (1, 2)
        for since in (0, NOON_MILLIS)
    }
    assert found == {(1, 0): -11, (1, NOON_MILLIS): -1, (2, 0): -10, (2, NOON_MILLIS): 0}


def test_a_purge_of_reports_keeps_what_corrections_are_made_of(home, ledger, reader):
    ledger.record([batch(report("alice"))], received_at_millis=NOON_MILLIS)
    carry_out(home, ledger, void())
    removed = ledger.forget_reports(
        before_millis=10 * NOON_MILLIS, limit=10, keeps_unexported=False
    )
    assert removed == 2
    assert reader.corrected_sum(stretch(period_seq=0)).period_raw_bytes == -3
    assert reader.audit().problems == []
    carry_out(home, ledger, void())
    assert net(reader) == {"alice": (0, 0)}


def test_a_series_that_was_voided_is_dropped_with_its_days_and_its_lines_stay_the_user_s(
    home, ledger, reader
):
    attack = [report(server=f"s{n}", up=n, down=0) for n in range(1, 30)]
    ledger.record([batch(*attack, report("bob"))], received_at_millis=NOON_MILLIS)
    ledger.record([batch(report(), reporter="reporter:honest")], received_at_millis=NOON_MILLIS)
    carry_out(home, ledger, void(username="alice"))
    carry_out(home, ledger, adjust("alice", -3))
    asked = stretch(period_seq=0)
    before = net(reader), gross(reader), reader.corrected_sum(asked)
    ledger.forget_reports(before_millis=10 * NOON_MILLIS, limit=1000, keeps_unexported=False)
    ledger.forget_days(before_day=DAY + 1000, limit=1000)
    idle = reader.idle_series(kept_per_user=256, limit=100)
    assert ledger.forget_series(idle) == len(idle) == 29
    assert (net(reader), gross(reader), reader.corrected_sum(asked)) == before
    assert reader.audit().problems == []
    shown = {it.server: it.upload_bytes for it in reader.servers_of(None, since_day=None)}
    assert {name for name in shown if name.startswith("s")} == set()
    assert shown["de-1"] == 2
