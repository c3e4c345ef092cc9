"""What every ledger promises, whatever it is made of: exact totals, each id once, a true feed."""

from __future__ import annotations

import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.errors import NotStoredError
from collector.ledger import Backlog, Batch, DeadLetter, ExportState, Progress, Receipt
from collector.ledger.ports import Ledger, LedgerReader
from collector.ledger.postgres.append import Group
from collector.ledger.sqlite.writer import SqliteLedger
from collector.ledger.statistics_values import (
    UsageSums,
)
from collector.reports.columns import columns_of
from collector.reports.report import DAY_MILLIS, MAX_AMOUNT_BYTES
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

KINDS = ["sqlite", "postgres"]


def home_of(kind: str, folder: Path, server: PostgresServer | None) -> Place:
    if server is not None:
        return PostgresPlace(url=server.url(server.new_database()))
    assert kind == "sqlite"
    return SqlitePlace(path=folder / "ledger.sqlite3")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def server(request: pytest.FixtureRequest, kind: str) -> PostgresServer | None:
    return request.getfixturevalue("postgres") if kind == "postgres" else None


@pytest.fixture
def place(kind: str, server: PostgresServer | None, tmp_path: Path) -> Place:
    return home_of(kind, tmp_path, server)


@pytest.fixture
def ledger(place: Place) -> Iterator[Ledger]:
    with closing(place.open()) as opened:
        yield opened


@pytest.fixture
def reader(place: Place, ledger: Ledger) -> Iterator[LedgerReader]:
    with closing(place.reader()) as opened:
        yield opened


def store(
    ledger: Ledger, *batches, at: int = NOON_MILLIS, defers_sums: bool = False
) -> list[Receipt]:
    return ledger.record(batches, received_at_millis=at, defers_sums=defers_sums)


def totals(reader: LedgerReader) -> dict[str, tuple[int, int, int]]:
    page = reader.changes(after=0, limit=10_000)
    return {u.username: (u.upload_bytes, u.download_bytes, u.reports) for u in page.changes}


def test_a_new_ledger_is_empty_and_has_a_name_of_its_own(reader):
    page = reader.changes(after=0, limit=10)
    assert (page.head, page.changes) == (0, [])
    assert len(page.ledger_id) == 32
    assert reader.audit().problems == []


def test_bytes_add_up_per_user_over_servers_and_commits(ledger, reader):
    store(ledger, batch(report(up=1, down=2), report(up=10, down=20, server="nl-1")))
    store(ledger, batch(report(up=100, down=200), report("bob", up=7, down=0)))
    assert totals(reader) == {"alice": (111, 222, 3), "bob": (7, 0, 1)}


def test_an_id_counts_once_within_a_batch_a_group_a_ledger_and_its_next_opening(place):
    with closing(place.open()) as ledger:
        within = store(
            ledger, batch(report(key="k"), report(key="k")), batch(report(key="k"), report(key="l"))
        )
        later = store(ledger, batch(report(key="l"), report(key="m")))
    with closing(place.open()) as ledger, closing(place.reader()) as reader:
        reopened = store(ledger, batch(report(key="k"), report(key="m")))
        assert totals(reader) == {"alice": (3, 6, 3)}
    assert within == [Receipt(1, 1), Receipt(1, 1)]
    assert later == [Receipt(1, 1)]
    assert reopened == [Receipt(0, 2)]


def test_without_an_id_every_report_counts(ledger, reader):
    assert store(ledger, batch(report(), report())) == [Receipt(2, 0)]
    assert totals(reader) == {"alice": (2, 4, 2)}


@pytest.mark.parametrize(
    "other",
    [{"up": 5}, {"down": 5}, {"username": "mallory"}, {"server": "elsewhere"}, {"port": 1}],
    ids=str,
)
@pytest.mark.parametrize("is_one_group", [True, False])
def test_an_id_with_another_content_is_a_conflict_and_the_first_one_stays(
    ledger, reader, other, is_one_group
):
    first, second = batch(report(key="k")), batch(report(**other, key="k"))
    receipts = store(ledger, first, second) if is_one_group else None
    receipts = receipts or [*store(ledger, first), *store(ledger, second)]
    assert receipts == [Receipt(1, 0), Receipt(0, 1, conflicts=1)]
    assert totals(reader) == {"alice": (1, 2, 1)}
    assert [each.server for each in reader.servers_of(None, since_day=None)] == ["de-1"]


def test_the_feed_gives_each_user_once_with_its_last_change_and_pages_without_gaps(ledger, reader):
    for number in range(50):
        store(ledger, batch(report(f"user{number % 20}"), report("everywhere")))
    seen, after, head = [], 0, reader.changes(after=0, limit=1).head
    while page := reader.changes(after=after, limit=7).changes:
        seen += [each.username for each in page]
        assert [each.change_seq for each in page] == sorted({each.change_seq for each in page})
        after = page[-1].change_seq
    assert sorted(seen) == sorted(totals(reader))
    assert seen[-1] == "everywhere"
    assert after == head == 100


def test_the_feed_goes_on_where_a_reader_left_it(ledger, reader):
    store(ledger, batch(report("a"), report("b")))
    head = reader.changes(after=0, limit=10).head
    assert reader.changes(after=head, limit=10).changes == []
    store(ledger, batch(report("a")))
    (change,) = reader.changes(after=head, limit=10).changes
    assert (change.username, change.reports) == ("a", 2)


def test_duplicates_move_nothing_in_the_feed(ledger, reader):
    store(ledger, batch(report(key="k")))
    before = reader.changes(after=0, limit=10)
    store(ledger, batch(report(key="k")))
    assert reader.changes(after=0, limit=10) == before


def test_sequence_numbers_are_never_given_out_again_even_when_all_reports_are_gone(place):
    with closing(place.open()) as ledger:
        store(ledger, batch(report(), report()))
        ledger.forget_reports(before_millis=NOON_MILLIS + 1, limit=10, keeps_unexported=False)
    with closing(place.open()) as ledger, closing(place.reader()) as reader:
        store(ledger, batch(report("bob")))
        assert reader.changes(after=0, limit=10).head == 3


def test_a_ledger_keeps_its_name_and_no_two_have_the_same(place, kind, server, tmp_path):
    names = []
    for each in (place, place, home_of(kind, tmp_path / "other", server)):
        with closing(each.open()), closing(each.reader()) as reader:
            names.append(reader.changes(after=0, limit=1).ledger_id)
    assert names[0] == names[1] != names[2]


class TestRuns:
    """Who stored what, so that a reader can tell a ledger from an older copy of it."""

    def runs(self, place, *, after=0):
        with closing(place.reader()) as reader:
            return reader.changes(after=after, limit=1).runs

    def test_each_opening_that_stores_something_is_a_run_of_its_own(self, place):
        for _ in range(3):
            with closing(place.open()) as ledger:
                store(ledger, batch(report(), report()))
                store(ledger, batch(report()))
        runs = self.runs(place)
        assert [each.after_seq for each in runs] == [0, 3, 6]
        assert len({each.token for each in runs}) == 3

    def test_an_opening_that_stores_nothing_is_none(self, place):
        with closing(place.open()) as ledger:
            store(ledger, batch(report(key="k")))
        with closing(place.open()) as ledger:
            store(ledger, batch(report(key="k")))
            store(ledger, batch(report(up=MAX_AMOUNT_BYTES, down=0)))
            with pytest.raises(NotStoredError):
                store(ledger, batch(report("broken \ud800")))
            assert len(self.runs(place)) == 1
            store(ledger, batch(report()))
        assert [each.after_seq for each in self.runs(place)] == [0, 1]

    def test_a_reader_is_told_who_stored_what_it_has_read_and_who_came_since(self, place):
        for _ in range(3):
            with closing(place.open()) as ledger:
                store(ledger, batch(report(), report()))
        first, second, third = self.runs(place)
        for after, runs in ((1, [first, second, third]), (2, [first, second, third])):
            assert self.runs(place, after=after) == runs
        assert self.runs(place, after=3) == [second, third]
        assert self.runs(place, after=6) == [third]
        assert self.runs(place, after=7) == [third]

    def test_what_was_stored_and_not_added_up_by_a_run_that_crashed_stays_its_own(self, place):
        with closing(place.open()) as ledger:
            store(ledger, batch(report(), report()), defers_sums=True)
        with closing(place.open()) as ledger:
            store(ledger, batch(report()))
        # Where reports are numbered when they are added up, nobody can have read them before.
        expected = [0, 2] if place.numbers_when_stored else [0]
        assert [each.after_seq for each in self.runs(place)] == expected

    def test_the_oldest_are_forgotten(self, place, monkeypatch):
        monkeypatch.setattr("collector.ledger.sqlite.runs.MAX_RUNS", 3)
        monkeypatch.setattr("collector.ledger.postgres.sums.numbering.MAX_RUNS", 3)
        for _ in range(5):
            with closing(place.open()) as ledger:
                store(ledger, batch(report()))
        assert [each.after_seq for each in self.runs(place)] == [2, 3, 4]
        assert [each.after_seq for each in self.runs(place, after=1)] == [2, 3, 4]


def test_amounts_are_whole_numbers_up_to_the_largest(ledger, reader):
    store(ledger, batch(report(up=MAX_AMOUNT_BYTES - 1, down=0)))
    assert totals(reader) == {"alice": (2**62 - 1, 0, 1)}
    assert reader.audit().series_bytes == 2**62 - 1


class TestCapacity:
    """A user's total stays within the ledger's integers; a full one is nobody else's trouble."""

    FULL = report(up=MAX_AMOUNT_BYTES - 10, down=0)

    @pytest.mark.parametrize("defers_sums", [False, True])
    def test_a_report_beyond_its_user_s_total_is_not_stored_and_all_others_are(
        self, ledger, reader, defers_sums
    ):
        store(ledger, batch(self.FULL), defers_sums=defers_sums)
        mixed = batch(report(up=6, down=6), report("bob", up=5, down=5), report(up=4, down=6))
        receipts = store(ledger, mixed, batch(report(up=1)), defers_sums=defers_sums)
        assert receipts == [Receipt(2, 0, full=(0,)), Receipt(0, 0, full=(0,))]
        ledger.fold()
        assert totals(reader) == {"alice": (2**62 - 6, 6, 2), "bob": (5, 5, 1)}
        assert reader.audit().problems == []

    @pytest.mark.parametrize("defers_sums", [False, True])
    def test_every_user_has_as_much_room_and_sums_over_users_are_exact(
        self, ledger, reader, defers_sums
    ):
        names = ["a", "b", "c", "d"]
        for name in names:
            most = report(name, up=MAX_AMOUNT_BYTES // 2 - 1, down=MAX_AMOUNT_BYTES // 2)
            assert store(ledger, batch(most), defers_sums=defers_sums) == [Receipt(1, 0)]
        assert store(ledger, batch(report("e", up=1))) == [Receipt(1, 0)]
        ledger.fold()
        up, all_bytes = 4 * (2**61 - 1) + 1, 4 * (2**62 - 1) + 3
        (server,) = reader.servers_of(None, since_day=None)
        assert (server.upload_bytes, server.billed_bytes, server.users) == (up, all_bytes, 5)
        assert reader.servers_of(None, since_day=DAY) == [server]
        (day,) = reader.days_of_server("de-1", 443, since_day=DAY)
        assert (day.upload_bytes, day.upload_bytes + day.download_bytes) == (up, all_bytes)
        for since_day in (None, DAY):
            summary = reader.summary(since_day=since_day)
            assert (summary.upload_bytes, summary.billed_bytes) == (up, all_bytes)
        facts, audit = reader.facts(), reader.audit()
        assert (facts.upload_bytes, facts.billed_bytes) == (up, all_bytes)
        assert (audit.user_bytes, audit.day_bytes, audit.problems) == (all_bytes, all_bytes, [])

    def test_an_id_that_is_stored_is_known_although_its_user_is_full(self, ledger):
        store(ledger, batch(report(up=MAX_AMOUNT_BYTES - 2, down=2, key="k")))
        again = batch(report(up=MAX_AMOUNT_BYTES - 2, down=2, key="k"), report(up=1, key="l"))
        assert store(ledger, again) == [Receipt(0, 1, full=(1,))]
        assert store(ledger, batch(report(up=1, key="l"))) == [Receipt(0, 0, full=(0,))]


@pytest.mark.parametrize(
    "name",
    [
        "o'brien", 'say "hi"', "a=b,c d", "x; DROP TABLE report; --", "%_\\", "юзер", "用户",
        "🦊🏳️‍🌈", "ܐ\u202eevil", "e\u0301", "é", "ALICE", "alice", " padded ", "a" * 255, "\N{NO-BREAK SPACE}",
    ],
)  # fmt: skip
def test_any_name_survives_as_user_server_and_protocol(ledger, reader, name):
    store(ledger, batch(report(name, server=name, protocol=name), report("other")))
    assert set(totals(reader)) == {name, "other"}
    (usage,) = reader.servers_of(name, since_day=None)
    assert (usage.server, usage.protocol) == (name, name)


def test_names_that_differ_in_case_are_different_here(ledger, reader):
    store(ledger, batch(report("Alice"), report("alice")))
    assert set(totals(reader)) == {"Alice", "alice"}


def test_forgetting_reports_keeps_to_age_and_limit_and_leaves_totals(ledger, reader):
    for age in (3, 2, 1, 0):
        store(ledger, batch(report(key=f"k{age}")), at=NOON_MILLIS - age)
    before = totals(reader)
    assert (
        ledger.forget_reports(before_millis=NOON_MILLIS - 1, limit=1, keeps_unexported=False) == 1
    )
    assert (
        ledger.forget_reports(before_millis=NOON_MILLIS - 1, limit=10, keeps_unexported=False) == 1
    )
    assert (
        ledger.forget_reports(before_millis=NOON_MILLIS - 1, limit=10, keeps_unexported=False) == 0
    )
    assert reader.facts().records == 2
    assert totals(reader) == before
    assert store(ledger, batch(report(key="k0"))) == [Receipt(0, 1)]


def test_forgetting_days_keeps_to_age_and_limit_and_leaves_totals(ledger, reader):
    for days_ago in range(5):
        at = NOON_MILLIS - days_ago * DAY_MILLIS
        store(ledger, batch(report(at=at), report(at=at, server="nl-1")))
    before = totals(reader)
    assert ledger.forget_days(before_day=DAY - 2, limit=3) == 3
    assert ledger.forget_days(before_day=DAY - 2, limit=3) == 1
    assert ledger.forget_days(before_day=DAY - 2, limit=3) == 0
    assert reader.facts().day_rows == 6
    assert totals(reader) == before
    assert reader.audit().problems == []
    assert reader.summary(since_day=None).reports == 10


def test_statistics_by_server_are_for_ever_or_since_a_day(ledger, reader):
    yesterday = NOON_MILLIS - DAY_MILLIS
    store(
        ledger,
        batch(
            report("a", up=1, down=1, at=yesterday, connections=3),
            report("b", up=10, down=10),
            report("a", up=100, down=100, server="nl-1", protocol="trojan"),
        ),
    )
    ever = reader.servers_of(None, since_day=None)
    assert [(s.server, s.upload_bytes, s.connections, s.users) for s in ever] == [
        ("nl-1", 100, 1, 1),
        ("de-1", 11, 4, 2),
    ]
    today = reader.servers_of(None, since_day=DAY)
    assert [(s.server, s.upload_bytes, s.users) for s in today] == [
        ("nl-1", 100, 1),
        ("de-1", 10, 1),
    ]
    of_a = reader.servers_of("a", since_day=DAY - 1)
    assert [(s.server, s.upload_bytes) for s in of_a] == [("nl-1", 100), ("de-1", 1)]
    assert reader.servers_of("nobody", since_day=None) == []
    ever_sum, today_sum = reader.summary(since_day=None), reader.summary(since_day=DAY)
    assert (ever_sum.users, ever_sum.servers, ever_sum.protocols) == (2, 2, 2)
    assert (ever_sum.upload_bytes, ever_sum.connections, ever_sum.reports) == (111, 5, 3)
    assert (today_sum.upload_bytes, today_sum.connections, today_sum.reports) == (110, 2, 2)
    days = reader.days_of_server("de-1", 443, since_day=DAY - 1)
    assert [(d.day, d.upload_bytes, d.users) for d in days] == [(DAY - 1, 1, 1), (DAY, 10, 1)]


@pytest.mark.parametrize("since_day", [None, DAY])
def test_servers_are_read_in_pages_and_summed_over_all(ledger, reader, since_day):
    reports = [report("a", server=f"s{n}", up=n, down=0, connections=2) for n in range(1, 8)]
    store(ledger, batch(*reports, report("b", server="s1", protocol="x", up=100, down=0)))
    everything = reader.servers_of("a", since_day=since_day)
    pages = [
        reader.servers_of("a", since_day=since_day, after=after, limit=3) for after in (0, 3, 6, 9)
    ]
    assert [len(page) for page in pages] == [3, 3, 1, 0]
    assert [each for page in pages for each in page] == everything
    assert everything[0].server == "s7"
    sums = reader.sums_of_user("a", since_day=since_day)
    assert (sums.series, sums.users, sums.upload_bytes, sums.connections) == (7, 1, 28, 14)
    assert reader.sums_of_user("c", since_day=since_day) == UsageSums(0, 0, 0, 0, 0, 0)
    sums = reader.sums_of_server("s1", 443, since_day=since_day)
    assert (sums.series, sums.users, sums.upload_bytes, sums.billed_bytes) == (2, 2, 101, 101)
    assert reader.sums_of_server("s1", 1, since_day=since_day).users == 0


def test_a_user_of_several_days_and_protocols_is_counted_once_a_server_and_protocol(ledger, reader):
    stored = [
        report(name, at=NOON_MILLIS - days_ago * DAY_MILLIS, protocol=protocol, up=1, down=0)
        for days_ago in (0, 1, 5, 9)
        for name in ("a", "b")
        for protocol in ("vless", "trojan")
    ]
    store(ledger, batch(*stored, report("c", at=NOON_MILLIS - 9 * DAY_MILLIS)))
    for since_day, days, users in ((DAY - 5, 3, 2), (DAY, 1, 2), (0, 4, 3)):
        found = reader.servers_of(None, since_day=since_day)
        counted = {each.protocol: each.users for each in found}
        assert counted == {"vless": users, "trojan": 2}
        of_a = reader.servers_of("a", since_day=since_day)
        assert [(each.protocol, each.upload_bytes, each.users) for each in of_a] == [
            ("trojan", days, 1),
            ("vless", days, 1),
        ]
        assert reader.summary(since_day=since_day).users == users
    assert reader.servers_of("a", since_day=DAY + 1) == []
    assert reader.servers_of("c", since_day=DAY - 5) == []
    assert {each.users for each in reader.servers_of("a", since_day=None)} == {1}


def test_a_ledger_without_reports_has_no_statistics(reader):
    for since_day in (None, 0, DAY):
        assert reader.servers_of("a", since_day=since_day) == []
        assert reader.servers_of(None, since_day=since_day) == []
        assert reader.summary(since_day=since_day).users == 0


def test_last_used_is_the_latest_moment_whatever_the_order_of_arrival(ledger, reader):
    store(ledger, batch(report(at=NOON_MILLIS), report(at=NOON_MILLIS - 5)))
    store(ledger, batch(report(at=NOON_MILLIS - 9)))
    (change,) = reader.changes(after=0, limit=1).changes
    (usage,) = reader.servers_of("alice", since_day=None)
    assert change.last_used_at_millis == usage.last_used_at_millis == NOON_MILLIS


def test_who_reported_last_and_when_is_known_while_reports_are_kept(ledger, reader):
    store(ledger, batch(report(), reporter="reporter:a"), at=NOON_MILLIS)
    store(ledger, batch(report(), reporter="reporter:b"), at=NOON_MILLIS + 5)
    store(ledger, batch(report(), reporter="reporter:a"), at=NOON_MILLIS + 9)
    assert reader.last_reports() == {"reporter:a": NOON_MILLIS + 9, "reporter:b": NOON_MILLIS + 5}
    ledger.forget_reports(before_millis=NOON_MILLIS + 6, limit=99, keeps_unexported=False)
    assert reader.last_reports() == {"reporter:a": NOON_MILLIS + 9}


users = st.sampled_from(["a", "b", "C", "ю"])
reports = st.builds(
    report,
    users,
    up=st.integers(0, 2**40),
    down=st.integers(0, 2**40),
    server=st.sampled_from(["s1", "s2"]),
    port=st.sampled_from([0, 443]),
    at=st.integers(NOON_MILLIS - 3 * DAY_MILLIS, NOON_MILLIS + 1000),
    key=st.one_of(st.none(), st.integers(0, 12).map(str)),
    billed=st.one_of(st.none(), st.integers(0, 2**42)),
)
groups = st.lists(st.lists(st.lists(reports, min_size=1, max_size=6), max_size=3), max_size=6)


HISTORIES = given(
    history=groups,
    reopen_after=st.sets(st.integers(0, 5)),
    deferred=st.sets(st.integers(0, 5)),
    fold_after=st.sets(st.integers(0, 5)),
)


@HISTORIES
@settings(max_examples=100)
def test_all_sums_equal_the_distinct_accepted_reports_whatever_the_grouping(**drawn):
    check_sums("sqlite", None, **drawn)


@HISTORIES
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_same_in_postgresql(postgres, **drawn):
    check_sums("postgres", postgres, **drawn)


def check_sums(kind, server, *, history, reopen_after, deferred, fold_after):
    """Users, series, days and kept reports all add up to what was first under each id.

    Half of the batches are kept by column.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = home_of(kind, Path(folder), server)
        expected: Counter[str] = Counter()
        billed: Counter[str] = Counter()
        known: set[bytes] = set()
        accepted = duplicates = 0
        ledger = place.open()
        for number, group in enumerate(history):
            batches = [batch(*each) for each in group]
            batches[::2] = [Batch(it.reporter, columns_of([it.reports])) for it in batches[::2]]
            receipts = store(ledger, *batches, defers_sums=number in deferred)
            if number in fold_after:
                ledger.fold()
            accepted += sum(each.accepted for each in receipts)
            duplicates += sum(each.duplicates for each in receipts)
            for each in (each for one in group for each in one):
                if each.report_key is None or each.report_key not in known:
                    raw = each.upload_bytes + each.download_bytes
                    expected[each.username] += raw
                    billed[each.username] += raw if each.billed_bytes is None else each.billed_bytes
                if each.report_key is not None:
                    known.add(each.report_key)
            if number in reopen_after:
                ledger.close()
                ledger = place.open()
        ledger.fold()
        with closing(ledger), closing(place.reader()) as reader:
            page, audit = reader.changes(after=0, limit=100), reader.audit()
            found = {
                each.username: each.upload_bytes + each.download_bytes for each in page.changes
            }
            assert found == dict(expected)
            assert {each.username: each.billed_bytes for each in page.changes} == dict(billed)
            exported = (reader.reports_after(0, limit=1000), reader.days_after(0, limit=1000))
            for rows in exported:
                assert sum(each.billed_bytes for each in rows) == billed.total()
            for days in (None, 0):
                servers = reader.servers_of(None, since_day=days)
                assert sum(each.billed_bytes for each in servers) == billed.total()
                assert reader.summary(since_day=days).billed_bytes == billed.total()
            assert reader.facts().billed_bytes == audit.billed_bytes == billed.total()
            assert audit.user_bytes == audit.series_bytes == audit.day_bytes == expected.total()
            assert audit.reports == reader.facts().records == page.head == accepted
            assert accepted + duplicates == sum(len(one) for group in history for one in group)
            assert audit.problems == []


class TestBilledBytes:
    """What reports count for, kept apart from what they are."""

    def test_a_report_counts_as_it_was_decided_and_raw_bytes_stay(self, ledger, reader):
        store(ledger, batch(report(up=1, down=2, billed=6), report(up=1, down=2)))
        store(ledger, batch(report(up=1, down=2, billed=0)))
        (change,) = reader.changes(after=0, limit=9).changes
        assert (change.upload_bytes, change.download_bytes, change.billed_bytes) == (3, 6, 9)
        assert [each.billed_bytes for each in reader.reports_after(0, limit=9)] == [6, 3, 0]

    def test_a_report_that_comes_again_counts_as_the_first_time_and_is_no_conflict(
        self, ledger, reader
    ):
        store(ledger, batch(report(key="k")))
        assert store(ledger, batch(report(key="k", billed=6))) == [Receipt(0, 1)]
        (change,) = reader.changes(after=0, limit=9).changes
        assert change.billed_bytes == 3

    def test_a_feed_that_is_read_anew_gives_what_was_billed(self, ledger, reader):
        store(ledger, batch(report(billed=7), report("bob", billed=0)))
        first = reader.changes(after=0, limit=9)
        store(ledger, batch(report(billed=1)))
        assert [each.billed_bytes for each in first.changes] == [7, 0]
        again = {u.username: u.billed_bytes for u in reader.changes(after=0, limit=9).changes}
        assert again == {"alice": 8, "bob": 0}

    @pytest.mark.parametrize("defers_sums", [False, True])
    def test_what_would_overflow_when_billed_is_refused_alone(self, ledger, reader, defers_sums):
        full = Receipt(0, 0, full=(0,))
        store(ledger, batch(report(billed=MAX_AMOUNT_BYTES - 10)), defers_sums=defers_sums)
        over, fits = batch(report(billed=11)), batch(report(up=0, down=1, billed=10))
        assert store(ledger, over, fits, defers_sums=defers_sums) == [full, Receipt(1, 0)]
        ledger.fold()
        assert store(ledger, batch(report(up=0, down=1))) == [full]
        assert store(ledger, batch(report(up=0, down=1, billed=0))) == [Receipt(1, 0)]
        assert reader.audit().billed_bytes == MAX_AMOUNT_BYTES
        assert reader.audit().problems == []

    def test_capacity_is_known_after_a_restart(self, place):
        with closing(place.open()) as ledger:
            store(ledger, batch(report(billed=MAX_AMOUNT_BYTES - 2)))
        with closing(place.open()) as ledger:
            assert store(ledger, batch(report())) == [Receipt(0, 0, full=(0,))]
            assert store(ledger, batch(report(up=0))) == [Receipt(1, 0)]

    def test_an_amount_beyond_the_largest_integer_is_refused_and_not_an_error(self, ledger):
        most = report(up=2**60, down=2**60, billed=2**61 * 1000)
        assert store(ledger, batch(most, report("bob"))) == [Receipt(1, 0, full=(0,))]

    def test_a_new_ledger_has_no_ratios(self, reader):
        assert reader.ratios() == []


class TestDeferredSums:
    """Reports that are stored first and added up later."""

    def test_they_are_stored_and_in_no_sum_before_they_are_added_up(self, place, ledger, reader):
        store(ledger, batch(report(up=1)))
        assert store(ledger, batch(report(up=10), report("bob")), defers_sums=True) == [
            Receipt(2, 0)
        ]
        assert totals(reader) == {"alice": (1, 2, 1)}
        assert reader.changes(after=0, limit=9).head == 1
        numbered = [1, 2, 3] if place.numbers_when_stored else [1]
        assert [row.seq for row in reader.reports_after(0, limit=9)] == numbered
        assert reader.audit().unfolded == 2
        assert (reader.facts().records, reader.backlog("raw").reports) == (3, 3)
        ledger.fold()
        assert [row.seq for row in reader.reports_after(0, limit=9)] == [1, 2, 3]
        assert totals(reader) == {"alice": (11, 4, 2), "bob": (1, 2, 1)}
        assert reader.changes(after=0, limit=9).head == 3
        assert reader.audit().problems == []

    def test_adding_up_twice_adds_nothing(self, ledger, reader):
        store(ledger, batch(report(up=10)), defers_sums=True)
        ledger.fold()
        ledger.fold()
        assert totals(reader) == {"alice": (10, 2, 1)}

    def test_the_next_commit_that_does_not_defer_adds_all_of_them_up(self, ledger, reader):
        store(ledger, batch(report(up=1)), defers_sums=True)
        store(ledger, batch(report(up=2)), defers_sums=True)
        store(ledger, batch(report(up=4)))
        assert totals(reader) == {"alice": (7, 6, 3)}

    def test_what_a_crash_left_over_is_added_up_at_the_next_opening(self, place):
        with closing(place.open()) as ledger:
            store(ledger, batch(report(up=1, key="a")), defers_sums=True)
        with closing(place.open()) as ledger, closing(place.reader()) as reader:
            assert totals(reader) == {"alice": (1, 2, 1)}
            assert store(ledger, batch(report(up=1, key="a"))) == [Receipt(0, 1)]

    def test_ids_are_known_before_and_after(self, ledger, reader):
        store(ledger, batch(report(up=1, key="a")), defers_sums=True)
        assert store(ledger, batch(report(up=1, key="a")), defers_sums=True) == [Receipt(0, 1)]
        assert store(ledger, batch(report(up=9, key="a")), defers_sums=True) == [Receipt(0, 1, 1)]
        ledger.fold()
        assert store(ledger, batch(report(up=1, key="a")), defers_sums=True) == [Receipt(0, 1)]
        assert store(ledger, batch(report(up=9, key="a")), defers_sums=True) == [Receipt(0, 1, 1)]
        assert totals(reader) == {"alice": (1, 2, 1)}

    def test_a_day_is_changed_by_its_last_report(self, ledger, reader):
        store(ledger, batch(report(up=1), report("bob"), report(up=2)), defers_sums=True)
        ledger.fold()
        found = [(row.username, row.change_seq) for row in reader.days_after(0, limit=9)]
        assert found == [("bob", 2), ("alice", 3)]

    def test_capacity_counts_what_is_in_no_sum_yet(self, ledger):
        store(ledger, batch(report(up=MAX_AMOUNT_BYTES - 10, down=0)), defers_sums=True)
        full = Receipt(0, 0, full=(0,))
        assert store(ledger, batch(report(up=11, down=0)), defers_sums=True) == [full]
        ledger.fold()
        assert store(ledger, batch(report(up=11, down=0))) == [full]
        assert store(ledger, batch(report(up=10, down=0))) == [Receipt(1, 0)]

    def test_reports_in_no_sum_are_not_purged(self, ledger, reader):
        store(ledger, batch(report(up=1)), defers_sums=True)
        old = {"before_millis": NOON_MILLIS + 1, "limit": 10, "keeps_unexported": False}
        assert ledger.forget_reports(**old) == 0
        ledger.fold()
        assert ledger.forget_reports(**old) == 1
        assert totals(reader) == {"alice": (1, 2, 1)}


def test_an_id_is_known_for_the_window_and_forgotten_after_another(ledger, reader):
    window = 7 * DAY_MILLIS

    def purge(now: int) -> None:
        ledger.forget_reports(before_millis=now - window, limit=10, keeps_unexported=False)

    store(ledger, batch(report(key="a")), at=NOON_MILLIS)
    for day in range(8):
        now = NOON_MILLIS + day * DAY_MILLIS
        purge(now)
        assert store(ledger, batch(report(key="a")), at=now) == [Receipt(0, 1)]
        store(ledger, batch(report("bob", key=f"day {day}")), at=now)
    for day in range(8, 25):
        now = NOON_MILLIS + day * DAY_MILLIS
        purge(now)
        store(ledger, batch(report("bob", key=f"day {day}")), at=now)
    assert store(ledger, batch(report(key="a")), at=now) == [Receipt(1, 0)]
    assert store(ledger, batch(report("bob", key="day 20")), at=now) == [Receipt(0, 1)]


def test_a_commit_that_failed_leaves_nothing_behind_in_memory(place, monkeypatch):
    """A series, a seq or a sum that was undone must not be believed in by the next commit."""
    with closing(place.open()) as ledger, closing(place.reader()) as reader:
        store(ledger, batch(report(up=1, key="a")))
        for defers in (False, True):
            with fails_to_commit(ledger, monkeypatch), pytest.raises(NotStoredError):
                store(ledger, batch(report("new", up=5, key="b")), defers_sums=defers)
            with fails_to_commit(ledger, monkeypatch), pytest.raises(NotStoredError):
                store(ledger, batch(report(up=MAX_AMOUNT_BYTES - 9, down=0)), defers_sums=defers)
        assert store(ledger, batch(report("other", up=7))) == [Receipt(1, 0)]
        assert store(ledger, batch(report("new", up=5, key="b"))) == [Receipt(1, 0)]
        assert store(ledger, batch(report(up=2, key="c"))) == [Receipt(1, 0)]
        assert totals(reader) == {"alice": (3, 4, 2), "new": (5, 2, 1), "other": (7, 2, 1)}
        assert reader.audit().problems == []


@contextmanager
def fails_to_commit(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the next transaction fail after its last statement, as on a disk that is full."""
    with monkeypatch.context() as patch:
        if isinstance(ledger, SqliteLedger):
            real = ledger._db

            class Failing:
                def execute(self, statement: str, *values: object) -> object:
                    if statement == "COMMIT":
                        raise sqlite3.OperationalError("disk I/O error")
                    return real.execute(statement, *values)

                def __getattr__(self, name: str) -> object:
                    return getattr(real, name)

            patch.setattr(ledger, "_db", Failing())
        else:
            stored = Group.store

            def fail(group, db, *values, **options):
                with db.transaction():  # of a single statement, too
                    stored(group, db, *values, **options)
                    raise NotStoredError("the disk is full")

            patch.setattr(Group, "store", fail)
        yield


class TestAClockThatJumps:
    """What is old by a wall clock alone is not old."""

    kept_millis = 7 * DAY_MILLIS

    def purge(self, ledger, *, now: int, ran_millis: int) -> int:
        old_seq = ledger.age(ran_millis=ran_millis, kept_millis=self.kept_millis)
        return ledger.forget_reports(
            before_millis=now - self.kept_millis,
            limit=10,
            keeps_unexported=False,
            through_seq=old_seq,
        )

    def test_no_id_is_forgotten_by_a_clock_that_jumps_ahead(self, ledger):
        store(ledger, batch(report(key="a")))
        for _ in range(5):
            assert self.purge(ledger, now=NOON_MILLIS + 365 * DAY_MILLIS, ran_millis=60_000) == 0
        assert store(ledger, batch(report(key="a"))) == [Receipt(0, 1)]

    def test_nor_one_that_came_while_the_clock_was_ahead(self, ledger):
        ahead = NOON_MILLIS + 20 * DAY_MILLIS
        store(ledger, batch(report(key="a")), at=ahead)
        self.purge(ledger, now=ahead, ran_millis=60_000)
        for _ in range(5):
            self.purge(ledger, now=ahead + 20 * DAY_MILLIS, ran_millis=60_000)
        assert store(ledger, batch(report(key="a"))) == [Receipt(0, 1)]

    def test_what_is_old_by_both_is_forgotten(self, ledger):
        store(ledger, batch(report(key="a")))
        self.purge(ledger, now=NOON_MILLIS, ran_millis=60_000)
        store(ledger, batch(report("bob", key="b")), at=NOON_MILLIS + 8 * DAY_MILLIS)
        removed = 0
        for day in range(8, 40):
            now = NOON_MILLIS + day * DAY_MILLIS
            removed += self.purge(ledger, now=now, ran_millis=DAY_MILLIS)
        assert removed == 2
        assert store(ledger, batch(report(key="a")), at=now) == [Receipt(1, 0)]

    def test_what_is_old_by_the_time_that_was_run_alone_is_not(self, ledger):
        store(ledger, batch(report(key="a")))
        for _ in range(40):
            assert self.purge(ledger, now=NOON_MILLIS, ran_millis=DAY_MILLIS) == 0
        assert store(ledger, batch(report(key="a"))) == [Receipt(0, 1)]

    def test_the_time_that_was_run_is_kept_when_it_is_opened_again(self, place):
        with closing(place.open()) as ledger:
            store(ledger, batch(report(key="a")))
            for _ in range(8):
                self.purge(ledger, now=NOON_MILLIS, ran_millis=DAY_MILLIS // 2)
        with closing(place.open()) as ledger:
            for _ in range(4):
                self.purge(ledger, now=NOON_MILLIS, ran_millis=DAY_MILLIS)
            assert self.purge(ledger, now=NOON_MILLIS + 9 * DAY_MILLIS, ran_millis=0) == 1


class TestExport:
    """What is read for InfluxDB, and how far that has come."""

    def test_reports_are_read_in_the_order_they_were_stored(self, ledger, reader):
        store(ledger, batch(report(up=1, key="a"), report("bob", up=2), report(up=9, key="a")))
        store(ledger, batch(report(up=3, down=0, server="nl", port=1, protocol="p", connections=5)))
        rows = reader.reports_after(0, limit=10)
        assert [(row.seq, row.username, row.upload_bytes) for row in rows] == [
            (1, "alice", 1),
            (2, "bob", 2),
            (3, "alice", 3),
        ]
        last = rows[-1]
        assert (last.server, last.port, last.protocol, last.download_bytes) == ("nl", 1, "p", 0)
        assert (last.connections, last.reported_at_millis) == (5, NOON_MILLIS)
        assert reader.reports_after(1, limit=1) == rows[1:2]
        assert reader.reports_after(3, limit=10) == []

    def test_a_day_that_grows_is_read_again_with_its_new_sums(self, ledger, reader):
        store(ledger, batch(report(up=1), report(up=2, at=NOON_MILLIS - DAY_MILLIS)))
        first = reader.days_after(0, limit=10)
        assert [(row.change_seq, row.day, row.upload_bytes) for row in first] == [
            (1, DAY, 1),
            (2, DAY - 1, 2),
        ]
        store(ledger, batch(report(up=4, connections=3)))
        (grown,) = reader.days_after(2, limit=10)
        assert (grown.day, grown.upload_bytes, grown.connections, grown.reports) == (DAY, 5, 4, 2)
        assert [row.change_seq for row in reader.days_after(0, limit=10)] == [2, 3]

    def test_an_export_that_never_ran_is_at_the_beginning(self, reader):
        assert reader.export_state("raw") == ExportState("raw")
        assert reader.backlog("raw") == Backlog(0, None)

    def test_progress_moves_the_cursor_and_adds_up_points(self, ledger, reader):
        store(ledger, *[batch(report()) for _ in range(5)])
        assert reader.backlog("raw") == Backlog(5, NOON_MILLIS)
        assert ledger.note_progress(Progress("raw", 0, 3, 3), at_millis=1)
        assert ledger.note_progress(Progress("raw", 3, 4, 0), at_millis=2)
        assert reader.export_state("raw") == ExportState("raw", 4, 3, 2, None)
        assert reader.export_state("daily") == ExportState("daily")
        assert reader.backlog("raw") == Backlog(1, NOON_MILLIS)

    def test_progress_from_another_place_than_the_cursor_is_ignored(self, ledger, reader):
        letter = DeadLetter("raw", "line", "why", 0)
        assert ledger.note_progress(Progress("raw", 0, 3, 3), at_millis=1)
        assert not ledger.note_progress(Progress("raw", 0, 2, 2, [letter]), at_millis=2)
        assert reader.export_state("raw").seq == 3
        assert reader.dead_letters(limit=10) == []

    def test_a_problem_stays_until_there_is_progress(self, ledger, reader):
        ledger.note_export_problem("raw", "away")
        assert reader.export_state("raw").problem == "away"
        ledger.note_progress(Progress("raw", 0, 1, 1), at_millis=1)
        assert reader.export_state("raw").problem is None

    def test_dead_letters_are_kept_newest_first(self, ledger, reader):
        for n in range(3):
            letters = [DeadLetter("raw", f"line {n}", "why", 0)]
            ledger.note_progress(Progress("raw", n, n + 1, 0, letters), at_millis=n)
        found = reader.dead_letters(limit=2)
        assert found == [
            DeadLetter("raw", "line 2", "why", 2),
            DeadLetter("raw", "line 1", "why", 1),
        ]

    def test_reports_that_are_not_exported_are_not_purged(self, ledger, reader):
        store(ledger, *[batch(report(key=str(n))) for n in range(4)])
        ledger.note_progress(Progress("raw", 0, 2, 2), at_millis=1)
        old = {"before_millis": NOON_MILLIS + 1, "limit": 10}
        assert ledger.forget_reports(**old, keeps_unexported=True) == 2
        assert [row.seq for row in reader.reports_after(0, limit=10)] == [3, 4]
        assert ledger.forget_reports(**old, keeps_unexported=False) == 2

    def test_reports_are_purged_from_the_front_only_wherever_the_clock_jumped(self, ledger, reader):
        for at in (5, 900, 10, 20):
            store(ledger, batch(report()), at=at)
        assert ledger.forget_reports(before_millis=100, limit=10, keeps_unexported=False) == 1
        assert [row.seq for row in reader.reports_after(0, limit=10)] == [2, 3, 4]
        assert reader.facts().records == 3


class TestSenders:
    """What each sender reported in an hour and a day, by when it arrived."""

    HOUR = NOON_MILLIS // 3_600_000

    @pytest.mark.parametrize("defers_sums", [False, True])
    def test_each_sender_s_bytes_are_known_at_once_and_after_they_are_added_up(
        self, ledger, reader, defers_sums
    ):
        ours, theirs = "reporter:r", "user:alice"
        for at in (NOON_MILLIS - DAY_MILLIS, NOON_MILLIS - 3_600_000, NOON_MILLIS, NOON_MILLIS + 1):
            reports = batch(report(up=1, down=2, key="again"), report("bob", up=4, down=0))
            store(ledger, reports, batch(report(up=0, down=1), reporter=theirs), at=at)
            store(ledger, reports, at=at, defers_sums=defers_sums)
        for _ in range(2):
            assert reader.sender_bytes(ours, hour=self.HOUR) == (16, 24)
            assert reader.sender_bytes(ours, hour=self.HOUR + 1) == (0, 24)
            assert reader.sender_bytes(ours, hour=self.HOUR - 24) == (11, 11)
            assert reader.sender_bytes(theirs, hour=self.HOUR) == (2, 3)
            assert reader.sender_bytes("user:bob", hour=self.HOUR) == (0, 0)
            ledger.fold()

    def test_they_are_known_after_a_restart_and_forgotten_after_days(self, place):
        with closing(place.open()) as ledger:
            store(ledger, batch(report(up=1, down=0)), at=NOON_MILLIS)
        with closing(place.open()) as ledger, closing(place.reader()) as reader:
            store(ledger, batch(report()), at=NOON_MILLIS + 15 * DAY_MILLIS)
            assert reader.sender_bytes("reporter:r", hour=self.HOUR) == (1, 1)
            store(ledger, batch(report()), at=NOON_MILLIS + 16 * DAY_MILLIS)
            assert reader.sender_bytes("reporter:r", hour=self.HOUR) == (0, 0)

    def test_large_hours_are_found_with_the_largest_of_the_days_before(self, ledger, reader):
        ours, theirs = "reporter:r", "user:alice"
        for days_ago, hour, sender, amount in (
            (15, 0, ours, 900), (14, 3, ours, 20), (14, 4, ours, 50), (3, 0, ours, 40),
            (1, 0, ours, 100), (1, 5, ours, 7), (0, 0, ours, 30), (0, 1, ours, 60), (0, 1, ours, 1),
            (0, 2, theirs, 500), (0, 0, "user:quiet", 10),
        ):  # fmt: skip
            at = NOON_MILLIS - days_ago * DAY_MILLIS + hour * 3_600_000
            store(ledger, batch(report(up=amount, down=0), reporter=sender), at=at)
        hours = reader.busy_hours(days=[DAY - 1, DAY], above_bytes=10, limit=9)
        assert sorted(hours) == [
            (ours, DAY - 1, 100, 900),
            (ours, DAY, 61, 100),
            (theirs, DAY, 500, 0),
        ]
        assert reader.busy_hours(days=[DAY], above_bytes=10, limit=1) == [(theirs, DAY, 500, 0)]

    @pytest.mark.parametrize("sender", ["reporter:r", "user:alice"])
    def test_the_places_that_a_sender_named_are_known_by_when_they_arrived(
        self, ledger, reader, sender
    ):
        store(ledger, batch(report(server="old"), reporter=sender), at=NOON_MILLIS - DAY_MILLIS)
        store(ledger, batch(report(server="others"), reporter="reporter:other"), at=NOON_MILLIS)
        late = report(server="late", port=7, at=NOON_MILLIS - 3 * DAY_MILLIS)
        store(ledger, batch(late, report(), reporter=sender), at=NOON_MILLIS + 1)
        found = set(reader.sender_places(sender, day=DAY))
        assert {("late", 7, "vless"), ("de-1", 443, "vless")} <= found
        assert not {each for each in found if each[0] == "old"}
        store(ledger, batch(report(), reporter=sender), at=NOON_MILLIS + DAY_MILLIS)
        found = reader.sender_places(sender, day=DAY + 1)
        assert found == [("de-1", 443, "vless")]
        assert reader.sender_places("reporter:unknown", day=DAY) == []
        assert reader.sender_places("user:unknown", day=DAY) == []


class TestDroppingSeries:
    """A series that no day and no report refers to is dropped; what it summed is not."""

    def filled(self, ledger, *, days=(5, 0), servers=6):
        for days_ago in days:
            at = NOON_MILLIS - days_ago * DAY_MILLIS
            reports = [
                report(name, server=f"{days_ago}-{n}", up=n, at=at + n, billed=n + 3)
                for n in range(servers)
                for name in ("alice", "bob")
            ]
            store(ledger, batch(*reports), at=at)

    def purge(self, ledger, *, before_day=DAY):
        before = NOON_MILLIS - DAY_MILLIS
        ledger.forget_reports(before_millis=before, limit=1000, keeps_unexported=False)
        ledger.forget_days(before_day=before_day, limit=1000)

    def sums(self, reader):
        summary = reader.summary(since_day=None)
        facts = (summary.upload_bytes, summary.billed_bytes, summary.connections, summary.reports)
        return (totals(reader), facts, reader.summary(since_day=DAY), reader.audit())

    def servers(self, reader, name="alice"):
        return {each.server: each.upload_bytes for each in reader.servers_of(name, since_day=None)}

    def test_those_with_days_or_reports_stay(self, ledger, reader):
        self.filled(ledger)
        assert reader.idle_series(kept_per_user=0, limit=100) == []
        ledger.forget_days(before_day=DAY, limit=1000)
        assert reader.idle_series(kept_per_user=0, limit=100) == []
        self.purge(ledger)
        assert len(reader.idle_series(kept_per_user=0, limit=100)) == 12
        assert len(reader.idle_series(kept_per_user=0, limit=5)) == 5

    def test_each_user_keeps_those_used_last_and_the_rest_is_under_other(self, ledger, reader):
        self.filled(ledger)
        self.purge(ledger)
        before = self.sums(reader)
        idle = reader.idle_series(kept_per_user=2, limit=100)
        assert ledger.forget_series(idle) == 8
        shown = {"5-5": 5, "5-4": 4, "other": 0 + 1 + 2 + 3} | {f"0-{n}": n for n in range(6)}
        assert self.servers(reader) == self.servers(reader, "bob") == shown
        assert self.sums(reader) == before
        assert reader.audit().problems == []
        assert reader.idle_series(kept_per_user=2, limit=100) == []
        assert ledger.forget_series(reader.idle_series(kept_per_user=0, limit=100)) == 4
        assert self.servers(reader)["other"] == 15
        assert self.sums(reader) == before

    def test_one_that_is_used_meanwhile_stays(self, ledger, reader):
        self.filled(ledger)
        self.purge(ledger)
        idle = reader.idle_series(kept_per_user=0, limit=100)
        store(ledger, batch(report(server="5-1", up=100)))
        store(ledger, batch(report(server="5-2", up=100)), defers_sums=True)
        before = totals(reader)["alice"]
        assert ledger.forget_series(idle) == 10
        ledger.fold()
        assert self.servers(reader)["5-1"] == 101
        assert self.servers(reader)["5-2"] == 102
        assert totals(reader)["alice"][0] == before[0] + 100
        assert reader.audit().problems == []

    def test_one_that_was_dropped_is_made_anew_by_its_next_report(self, ledger, reader):
        self.filled(ledger)
        self.purge(ledger)
        ledger.forget_series(reader.idle_series(kept_per_user=0, limit=100))
        for defers_sums in (True, False):
            store(ledger, batch(report(server="5-5", up=7)), defers_sums=defers_sums)
        assert self.servers(reader)["5-5"] == 14
        assert [row.server for row in reader.days_after(12 * 2, limit=9)] == ["5-5"]
        assert reader.audit().problems == []

    def test_a_ledger_that_was_reopened_shows_the_same(self, place):
        with closing(place.open()) as ledger, closing(place.reader()) as reader:
            self.filled(ledger)
            self.purge(ledger)
            ledger.forget_series(reader.idle_series(kept_per_user=1, limit=100))
            before = self.sums(reader), self.servers(reader)
        with closing(place.open()) as ledger, closing(place.reader()) as reader:
            assert (self.sums(reader), self.servers(reader)) == before
