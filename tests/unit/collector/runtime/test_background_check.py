"""A file that is read through beside its writer: the same verdict as at once, told once, noted."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing

import pytest

from collector.errors import LedgerError
from collector.ledger.sqlite.file import LEDGER, connect
from collector.runtime.sqlite import background_check
from collector.runtime.sqlite.background_check import BackgroundCheck, check_noted, note_of
from collector.runtime.sqlite.file import check_whole
from tests.support.collector.ledgers import damage

DEADLINE_SECONDS = 120


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "ledger.sqlite3"
    connect(path).close()
    return path


def told_of(path) -> list[str]:
    """Run a check to its end; return what it told."""
    told: list[Exception] = []
    check = BackgroundCheck(LEDGER, path, on_fault=told.append)
    check.start()
    assert check.wait(DEADLINE_SECONDS)
    check.stop()
    return [str(each) for each in told]


def test_a_whole_file_is_said_to_be_whole_and_nothing_is_noted(path, caplog):
    caplog.set_level("INFO")
    assert told_of(path) == []
    assert f"the ledger {path} is whole: read in " in caplog.text
    assert not note_of(path).exists()


def test_damage_is_told_in_the_words_of_a_check_at_the_start_and_noted(path):
    damage(path)
    with pytest.raises(LedgerError) as at_the_start, closing(connect(path)) as db:
        check_whole(LEDGER, db, path)
    assert "restore a backup" in str(at_the_start.value)
    assert told_of(path) == [str(at_the_start.value)]
    assert note_of(path).read_text() == f"{at_the_start.value}\n"
    assert note_of(path).stat().st_mode & 0o777 == 0o600
    assert told_of(path) == [str(at_the_start.value)], "also where it is noted already"


def fail_with(monkeypatch, *codes: int) -> None:
    """Have the first tries fail with these errors of SQLite's."""
    left, check = list(codes), background_check.damage_of

    def fails_first(db):
        if not left:
            return check(db)
        error = sqlite3.OperationalError("made up")
        error.sqlite_errorcode = left.pop(0)
        raise error

    monkeypatch.setattr(background_check, "damage_of", fails_first)


def test_a_failing_disk_is_told_and_is_no_damage(path, monkeypatch):
    fail_with(monkeypatch, sqlite3.SQLITE_IOERR)
    (told,) = told_of(path)
    assert "full or failing" in told
    assert "restore" not in told
    assert not note_of(path).exists()


def test_what_is_transient_is_tried_again(path, monkeypatch, caplog):
    monkeypatch.setattr(background_check, "RETRY_SECONDS", 0.001)
    fail_with(monkeypatch, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY)
    damage(path)
    (told,) = told_of(path)
    assert "is damaged" in told
    assert caplog.text.count("is not checked yet") == 2


def test_nothing_is_told_of_a_check_that_was_stopped(path, monkeypatch):
    is_reading, may_end = threading.Event(), threading.Event()

    def waits(_):
        is_reading.set()
        assert may_end.wait(DEADLINE_SECONDS)
        return "something"

    monkeypatch.setattr(background_check, "damage_of", waits)
    monkeypatch.setattr(background_check, "STOP_SECONDS", 0.001)
    told: list[Exception] = []
    check = BackgroundCheck(LEDGER, path, on_fault=told.append)
    check.start()
    assert is_reading.wait(DEADLINE_SECONDS)
    check.stop()
    may_end.set()
    assert check.wait(DEADLINE_SECONDS)
    assert told == []
    assert not note_of(path).exists()


def test_a_check_is_interrupted_when_it_is_stopped(path, monkeypatch):
    is_reading = threading.Event()
    endless = (
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    )

    def reads_for_ever(db):
        is_reading.set()
        return db.execute(endless).fetchone()[0]

    monkeypatch.setattr(background_check, "damage_of", reads_for_ever)
    monkeypatch.setattr(background_check, "STOP_SECONDS", DEADLINE_SECONDS)
    told: list[Exception] = []
    check = BackgroundCheck(LEDGER, path, on_fault=told.append)
    check.start()
    assert is_reading.wait(DEADLINE_SECONDS)
    check.stop()
    assert check.wait(0)
    assert told == []


def test_noted_damage_is_looked_for_before_anything_else_until_it_is_gone(path):
    whole = path.read_bytes()
    damage(path)
    told_of(path)
    with pytest.raises(LedgerError, match="is damaged"):
        check_noted(LEDGER, connect(path), path)
    assert note_of(path).exists()
    path.write_bytes(whole)
    with closing(connect(path)) as db:
        check_noted(LEDGER, db, path)
        assert not note_of(path).exists()
        check_noted(LEDGER, db, path)
