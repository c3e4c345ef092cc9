"""The log is copied into the ledger file beside commits, and a fault of that stops none."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from collector.ledger.sqlite import checkpoints
from collector.ledger.sqlite.checkpoints import Checkpoints
from collector.ledger.sqlite.writer import SqliteLedger
from tests.support.collector.ledgers import NOON_MILLIS, batch, report
from tests.support.processes import DEADLINE_SECONDS, until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite3"


@pytest.fixture(autouse=True)
def are_due_early(monkeypatch):
    monkeypatch.setattr(checkpoints, "PAGES", 20)


def store(ledger: SqliteLedger, reports: int) -> int:
    (receipt,) = ledger.record(
        [batch(*[report()] * reports)], received_at_millis=NOON_MILLIS, defers_sums=True
    )
    return receipt.accepted


def test_commits_are_copied_into_the_file_while_it_is_open(path):
    with closing(SqliteLedger(path)) as ledger:
        assert store(ledger, 100) == 100
        before_bytes = path.stat().st_size
        assert store(ledger, 1000) == 1000
        until("it is copied", lambda: path.stat().st_size > before_bytes + 30_000)
        assert store(ledger, 1) == 1
    with closing(SqliteLedger(path)) as ledger:
        assert ledger._last_seq == 1101


def test_a_ledger_that_is_closed_has_no_thread_left(path):
    with closing(SqliteLedger(path)) as ledger:
        store(ledger, 1000)
        thread = ledger._checkpoints._thread
    assert thread is not None
    assert not thread.is_alive()
    assert not path.with_name(path.name + "-wal").exists()


def test_an_end_is_seen_by_a_thread_that_is_about_to_begin_a_checkpoint(path):
    class ClosedMeanwhile(threading.Event):
        def clear(self) -> None:
            beside._is_closed = True
            self.set()
            super().clear()

    SqliteLedger(path).close()
    beside = Checkpoints(path)
    beside._is_due = ClosedMeanwhile()
    beside.note_commit(pages=checkpoints.PAGES)
    assert beside._thread is not None
    beside._thread.join(DEADLINE_SECONDS)
    assert not beside._thread.is_alive()


def test_a_fault_is_logged_and_commits_go_on(path, monkeypatch, caplog):
    class Faulty(sqlite3.Connection):
        def execute(self, *_: object) -> sqlite3.Cursor:
            raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(
        checkpoints,
        "open_in_place",
        lambda path: sqlite3.connect(path, factory=Faulty, check_same_thread=False),
    )
    with closing(SqliteLedger(path)) as ledger:
        for number in range(1, 3):
            assert store(ledger, 1000) == 1000
            until("a fault", lambda number=number: len(caplog.messages) >= number)
    assert set(caplog.messages) == {f"no checkpoint of the ledger {path}: disk I/O error"}


def test_commits_go_on_where_no_thread_can_be_started_and_it_is_tried_again(
    path, monkeypatch, caplog
):
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with closing(SqliteLedger(path)) as ledger:
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints.threading.Thread, "start", fail)
            assert store(ledger, 1000) == 1000
            ledger.fold()
        assert caplog.messages == [
            f"no checkpoints beside the commits of {path}: can't start new thread"
        ]
        before_bytes = path.stat().st_size
        assert store(ledger, 1000) == 1000
        until("it is copied", lambda: path.stat().st_size > before_bytes + 30_000)
