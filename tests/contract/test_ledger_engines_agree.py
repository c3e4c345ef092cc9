"""What one SQL text reads and changes is the same on both engines, where they differ by nature."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from collector.errors import DiskFullError, LedgerError, NotStoredError
from collector.ledger.backend import LedgerBackend
from collector.ledger.corrections import Kind, Wanted
from collector.ledger.engines import backend_of
from collector.ledger.ports import Ledger, LedgerReader
from collector.ledger.readers import ReaderPosition
from collector.ledger.sql.database import NO_LIMIT
from collector.ledger.sql.series import SERIES_PER_STATEMENT
from collector.reports.billing import Ratio
from collector.reports.contacts import Contacts, Refused
from tests.support.collector.ledgers import DAY, NOON_MILLIS, batch, report
from tests.support.engines.postgres_server import PostgresServer

UPPER_FIRST = ["B", "a", "b", "Ü"]
"""Text in the order of its bytes; a dictionary has it otherwise."""


@dataclass
class Opened:
    """A ledger, opened in every way there is."""

    backend: LedgerBackend
    ledger: Ledger
    reader: LedgerReader
    url: str

    def store(self, *reports, at: int = NOON_MILLIS, reporter: str = "reporter:r") -> None:
        self.ledger.record([batch(*reports, reporter=reporter)], received_at_millis=at)


@pytest.fixture(params=["sqlite", "postgres"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opened]:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.url(server.new_dictionary_database())
    backend = backend_of(url)
    with closing(backend.open()) as ledger, closing(backend.reader()) as reader:
        yield Opened(backend, ledger, reader, url)


def test_text_is_in_the_order_of_its_bytes(opened):
    for name in reversed(UPPER_FIRST):
        opened.store(report(server=name))
        opened.backend.set_ratio(Ratio(name, 2000, 0))
    for name in ("b-1", "B-1", "a-1"):
        opened.backend.add_reporter(name, now_millis=0)
        opened.store(report(up=1, down=2**40), reporter=f"reporter:{name}")
    usage = opened.reader.servers_of(None, since_day=None)
    assert [each.server for each in usage] == ["de-1", *UPPER_FIRST]
    assert [each.server for each in opened.reader.ratios()] == UPPER_FIRST
    assert [each.name for each in opened.reader.reporters()] == ["B-1", "a-1", "b-1"]
    busy = opened.reader.busy_hours(days=[DAY], above_bytes=2**39, limit=9)
    assert [each.sender for each in busy] == ["reporter:B-1", "reporter:a-1", "reporter:b-1"]
    wanted = Wanted(
        kind=Kind.VOID,
        reason="stolen key",
        actor="root",
        scope="reporter:r",
        since_millis=0,
        until_millis=2 * NOON_MILLIS,
    )
    for name in reversed(UPPER_FIRST):
        opened.store(report(username=name, up=5, down=0), at=NOON_MILLIS + 1)
    users = [each.username for each in opened.reader.preview(wanted).users]
    assert users == ["alice", *UPPER_FIRST]


def test_servers_are_in_the_order_of_their_exact_sums(opened):
    """As floating-point numbers both sums are the same, and the names would decide."""
    opened.store(report("u1", server="a", up=2**61, down=0), report("u2", server="a", up=2**61))
    opened.store(report("u3", server="b", up=2**61, down=0), report("u4", server="b", up=2**61))
    opened.store(report("u5", server="b", up=1, down=0), report("u6", server="small"))
    found = opened.reader.servers_of(None, since_day=None)
    assert [each.server for each in found] == ["b", "a", "small"]
    assert [each.upload_bytes for each in found] == [2**62 + 1, 2**62, 1]


def test_sums_over_users_go_beyond_64_bits(opened):
    for user in range(5):
        opened.store(report(f"u{user}", up=2**61, down=2**61, server="a"))
    (usage,) = opened.reader.servers_of(None, since_day=DAY)
    assert usage.upload_bytes == usage.download_bytes == 5 * 2**61
    assert opened.reader.summary(since_day=DAY).billed_bytes == 5 * 2**62
    assert opened.reader.sums_of_server("a", 443, since_day=None).upload_bytes == 5 * 2**61
    (day,) = opened.reader.days_of_server("a", 443, since_day=0)
    assert day.download_bytes == 5 * 2**61
    assert opened.reader.sender_bytes("reporter:r", hour=NOON_MILLIS // 3_600_000) == (2**62,) * 2


def test_a_server_and_a_port_are_two_things(opened):
    opened.store(report(server="1", port=11), report(server="11", port=1), report(server="1:1"))
    assert opened.reader.summary(since_day=None).servers == 3


def test_an_audit_beside_a_writer_is_of_one_moment(tmp_path):
    """Of a database it always was."""
    backend = backend_of(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    with closing(backend.open()) as ledger, closing(backend.reader()) as reader:
        ledger.record([batch(report())], received_at_millis=NOON_MILLIS)
        seen: list[str] = []

        def store_between(statement: str) -> None:
            if " FROM series" in statement and not seen:
                seen.append(statement)
                ledger.record([batch(report())], received_at_millis=NOON_MILLIS)

        with reader._connections.use() as db:
            db.set_trace_callback(store_between)
        assert reader.audit().problems == []
        assert seen
        assert reader.audit().reports == 2


def test_a_correction_is_no_sender(opened):
    opened.store(report())
    adjustment = Wanted(
        kind=Kind.ADJUST,
        reason="spike",
        actor="root",
        username="alice",
        raw_bytes=5,
        billed_bytes=5,
    )
    number = opened.backend.ask_correction(adjustment, asked_at_millis=NOON_MILLIS)
    opened.ledger.correct(now_millis=NOON_MILLIS + 7)
    assert opened.reader.corrections(limit=1)[0].number == number
    assert opened.reader.corrections(limit=1)[0].raw_bytes == 5
    assert opened.reader.last_reports() == {"reporter:r": NOON_MILLIS}


def test_a_key_belongs_to_one_reporter_and_the_message_says_which_is_at_fault(opened):
    key = opened.backend.add_reporter("one", now_millis=0)
    with pytest.raises(LedgerError, match="the key for 'two' is another reporter's"):
        opened.backend.add_reporter("two", now_millis=0, key=key)
    with pytest.raises(LedgerError, match="there is a reporter 'one' already"):
        opened.backend.add_reporter("one", now_millis=0)
    assert [each.name for each in opened.reader.reporters()] == ["one"]


def test_commands_at_once_keep_what_each_of_them_did(opened):
    """Every rotation keeps the key before; none forgets what another one keeps."""
    names = [f"r{n}" for n in range(4)]
    old = {name: opened.backend.add_reporter(name, now_millis=0) for name in names}
    gate = threading.Barrier(len(names))

    def rotate(name: str) -> None:
        gate.wait(120)
        backend_of(opened.url).rotate_reporter(name, now_millis=0, grace_millis=10)
        backend_of(opened.url).report_position("1" * 32, ReaderPosition(int(name[1:]), name))

    threads = [threading.Thread(target=rotate, args=(name,)) for name in names]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert len(old) == sum(len(each.former_keys) for each in opened.reader.reporters())
    assert opened.backend.reader_position("1" * 32) == ReaderPosition(3, "r3")


def test_contacts_of_several_collectors_add_up(opened):
    assert opened.reader.contacts() == Contacts()
    gate = threading.Barrier(4)

    def note(number: int) -> None:
        news = Contacts({"r": number}, [Refused("198.51.100.7", "no key", 1, number)])
        gate.wait(120)
        backend_of(opened.url).note_contacts(news, now_millis=NOON_MILLIS)

    threads = [threading.Thread(target=note, args=(NOON_MILLIS + each,)) for each in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(120)
    assert opened.reader.contacts() == Contacts(
        {"r": NOON_MILLIS + 3}, [Refused("198.51.100.7", "no key", 4, NOON_MILLIS + 3)]
    )


def test_readers_are_told_by_their_exact_name(opened):
    opened.backend.report_position("a" * 32, ReaderPosition(1, "aa"))
    opened.backend.report_position("b" * 32, ReaderPosition(2, "bb", "cc"))
    assert opened.backend.report_position("b" * 32, ReaderPosition(1, "dd")).position == 2
    assert opened.backend.reader_positions() == {
        "a" * 32: ReaderPosition(1, "aa"),
        "b" * 32: ReaderPosition(2, "bb", "cc"),
    }
    assert opened.backend.reader_position("c" * 32) is None


CHANGES = [
    lambda backend: backend.set_ratio(Ratio("de-1", 2000, 0)),
    lambda backend: backend.clear_ratio("de-1"),
    lambda backend: backend.add_reporter("more", now_millis=0),
    lambda backend: backend.rotate_reporter("one", now_millis=0, grace_millis=1),
    lambda backend: backend.revoke_reporter("one", now_millis=0),
    lambda backend: backend.change_reporter("one", counts_toward_quota=False),
    lambda backend: backend.report_position("1" * 32, ReaderPosition(1, "aa")),
    lambda backend: backend.rewind_exports(),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_command_that_a_file_refuses_was_not_stored(tmp_path, monkeypatch, change):
    """As of a database: what was not stored can be asked for again."""
    monkeypatch.setattr("collector.runtime.sqlite.file.BUSY_SECONDS", 0.05)
    path = tmp_path / "ledger.sqlite3"
    backend = backend_of(f"sqlite:///{path}")
    backend.prepare()
    backend.add_reporter("one", now_millis=0)
    backend.set_ratio(Ratio("de-1", 1500, 0))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(NotStoredError, match="database is locked"):
            change(backend)
        other.execute("ROLLBACK")
    change(backend)


def test_a_command_on_a_full_disk_says_so(tmp_path, monkeypatch):
    backend = backend_of(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    backend.prepare()
    real = sqlite3.connect

    def full(*arguments: object, **options: object) -> sqlite3.Connection:
        db = real(*arguments, **options)
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages}")
        return db

    monkeypatch.setattr("collector.runtime.sqlite.file.sqlite3.connect", full)

    def fill() -> None:
        for number in range(1000):
            backend.set_ratio(Ratio(f"{number}" + "x" * 200, 2000, 0))

    with pytest.raises(DiskFullError, match="is full"):
        fill()


def test_more_idle_series_than_a_statement_takes_are_dropped_and_no_byte_with_them(opened):
    many = 2 * SERIES_PER_STATEMENT + 7
    opened.store(*(report(f"u{n % 3}", server=f"s{n}", up=n, down=1) for n in range(many)))
    opened.ledger.fold()
    assert opened.reader.idle_series(kept_per_user=0, limit=NO_LIMIT) == []
    while opened.ledger.forget_reports(
        before_millis=NOON_MILLIS + 1, limit=5000, keeps_unexported=False
    ):
        pass
    opened.ledger.forget_days(before_day=DAY + 1, limit=5000)
    idle = opened.reader.idle_series(kept_per_user=0, limit=NO_LIMIT)
    assert len(idle) == many
    opened.store(report("u0", server="s0", up=7, down=0))
    assert opened.ledger.forget_series(idle) == many - 1
    usage = opened.reader.servers_of(None, since_day=None)
    assert [(each.server, each.users) for each in usage] == [("other", 3), ("s0", 1)]
    total = sum(each.upload_bytes + each.download_bytes for each in usage)
    assert total == sum(range(many)) + many + 7
    opened.ledger.fold()
    assert opened.reader.audit().problems == []


def test_numbers_that_are_missing_hide_no_report(tmp_path):
    """The first version gave numbers to duplicates too, and forgot them."""
    path = tmp_path / "ledger.sqlite3"
    backend = backend_of(f"sqlite:///{path}")
    with closing(backend.open()) as ledger, closing(backend.reader()) as reader:
        ledger.record([batch(*(report(up=n) for n in range(1, 9)))], received_at_millis=NOON_MILLIS)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("DELETE FROM report WHERE seq BETWEEN 3 AND 6")
        read, seq = [], 0
        while page := reader.reports_after(seq, limit=2):
            read += [each.upload_bytes for each in page]
            seq = page[-1].seq
        assert read == [1, 2, 7, 8]
        assert reader.backlog("raw").oldest_received_at_millis == NOON_MILLIS
        assert reader.sender_places("reporter:r", day=DAY) == [("de-1", 443, "vless")]
