"""A copy of a ledger that is in use: whole, of one moment, and never at another file's cost."""

from __future__ import annotations

import sqlite3
import stat
import threading
from contextlib import closing

import pytest

from collector.cli.main import main
from collector.errors import LedgerError
from collector.ledger.sqlite.backup import back_up
from collector.ledger.sqlite.reader import SqliteReader
from collector.ledger.sqlite.writer import SqliteLedger
from tests.support.collector.ledgers import NOON_MILLIS, batch, report


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "ledger.sqlite3"


def store(ledger, *numbers):
    reports = [report(f"user{number % 50}", server="s" * 99, key=str(number)) for number in numbers]
    ledger.record([batch(*reports)], received_at_millis=NOON_MILLIS)


def copy(path, target, on_progress=lambda done, total: None):
    return back_up(path, target, on_progress=on_progress)


def audit(path):
    with closing(SqliteLedger(path)):
        pass  # a ledger may have work to end at its opening
    with closing(SqliteReader(path)) as reader:
        return reader.audit()


def test_a_copy_is_of_one_moment_while_reports_are_stored(path, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "collector.runtime.sqlite.backup.PAGES_PER_STEP", 1
    )  # so that much happens meanwhile
    target = tmp_path / "copy.sqlite3"
    stored_meanwhile = 0
    with closing(SqliteLedger(path)) as ledger:
        store(ledger, *range(3000))

        def go_on(done_bytes, all_bytes):
            nonlocal stored_meanwhile
            if stored_meanwhile < 200:
                store(ledger, 10_000 + stored_meanwhile)
                stored_meanwhile += 1

        made = copy(path, target, go_on)
        store(ledger, 20_000)
    assert stored_meanwhile > 20
    assert (audit(target).reports, audit(target).problems) == (3000, [])
    assert made.size_bytes == target.stat().st_size
    assert audit(path).reports == 3001 + stored_meanwhile


def test_a_copy_taken_beside_a_busy_writer_balances(path, tmp_path):
    with closing(SqliteLedger(path)) as ledger:
        store(ledger, *range(500))
        copies = [tmp_path / f"copy-{number}" for number in range(3)]
        done = threading.Event()
        failures = []

        def take_copies():
            try:
                for each in copies:
                    copy(path, each)
            except Exception as error:  # noqa: BLE001 - handed to the test
                failures.append(error)
            finally:
                done.set()

        taking = threading.Thread(target=take_copies)
        taking.start()
        number = 500
        while not done.is_set():
            store(ledger, number)
            number += 1
        taking.join()
    assert failures == []
    counted = [audit(each).reports for each in copies]
    assert counted == sorted(counted)
    assert counted[0] >= 500
    assert all(not audit(each).problems for each in copies)


def test_a_copy_is_a_ledger_that_readers_do_not_block(path, tmp_path):
    with closing(SqliteLedger(path)) as ledger:
        store(ledger, 1)
    copy(path, tmp_path / "copy")
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"VACUUM INTO '{tmp_path}/by-hand'")
    for name in ("copy", "by-hand"):
        with closing(SqliteLedger(tmp_path / name)) as ledger:
            assert ledger._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_a_copy_is_for_its_owner_alone_and_leaves_nothing_beside_it(path, tmp_path):
    with closing(SqliteLedger(path)) as ledger:
        store(ledger, *range(100))
        target = tmp_path / "copies" / "ledger.sqlite3"
        target.parent.mkdir()
        copy(path, target)
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        assert list(target.parent.iterdir()) == [target]


def test_nothing_is_overwritten(path, tmp_path):
    with closing(SqliteLedger(path)):
        target = tmp_path / "kept"
        target.write_text("another backup")
        for each in (target, path):
            with pytest.raises(LedgerError, match="overwrites nothing"):
                copy(path, each)
        assert target.read_text() == "another backup"


def test_a_copy_that_fails_leaves_nothing_and_says_why(path, tmp_path):
    with pytest.raises(LedgerError, match="there is no ledger"):
        copy(path, tmp_path / "copy")
    with closing(SqliteLedger(path)) as ledger:
        store(ledger, *range(100))
        with pytest.raises(LedgerError, match="not copied to"):
            copy(path, tmp_path / "no-such-folder" / "copy")

        def fail(done_bytes, all_bytes):
            raise OSError("the disk went away")

        with pytest.raises(LedgerError, match="the disk went away"):
            copy(path, tmp_path / "copy", fail)
        assert [each.name for each in tmp_path.iterdir()] == ["data"]
        store(ledger, 1000)
    assert audit(path).problems == []


def test_the_command_says_what_is_in_the_copy(path, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LEDGER_URL", f"sqlite:///{path}")
    with closing(SqliteLedger(path)) as ledger:
        store(ledger, *range(100))
    with closing(SqliteLedger(path)):
        assert main(["backup", str(tmp_path / "copy")]) == 0
        assert main(["backup", str(tmp_path / "copy")]) == 1
    told = capsys.readouterr()
    assert "50 users" in told.out
    assert "whole" in told.out
    assert "overwrites nothing" in told.err
