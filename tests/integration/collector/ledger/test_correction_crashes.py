"""A process that is killed at each statement of a correction: what is stored is whole."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing

from collector.ledger.corrections import Kind, Wanted
from collector.ledger.engines import backend_of
from collector.ledger.sqlite.reader import SqliteReader
from collector.ledger.sqlite.writer import SqliteLedger
from tests.support.collector.ledgers import NOON_MILLIS, batch, report

REPORTS = 7
WANTED = (
    Wanted(
        kind=Kind.VOID,
        reason="",
        actor="root",
        scope="reporter:r",
        since_millis=0,
        until_millis=2 * NOON_MILLIS,
    ),
    Wanted(
        kind=Kind.ADJUST,
        reason="",
        actor="root",
        username="user0",
        raw_bytes=10,
        billed_bytes=20,
    ),
)


def killed_at(path, statement: int) -> bool:
    """Carry out what is open in a process that is killed before a statement; tell whether it was."""
    pid = os.fork()
    if not pid:
        left = statement

        def count(_: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        ledger = SqliteLedger(path)
        ledger._db.set_trace_callback(count)
        while ledger.correct(now_millis=NOON_MILLIS + 1, limit=3):
            pass
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def test_killed_before_any_statement_a_correction_is_carried_out_once(tmp_path):
    path = tmp_path / "ledger.sqlite3"
    with closing(SqliteLedger(path)) as ledger:
        reports = [report(f"user{n % 3}", up=10**n, down=0, key=str(n)) for n in range(REPORTS)]
        ledger.record([batch(*reports)], received_at_millis=NOON_MILLIS)
        ledger.record(
            [batch(report("user0", up=5, down=0), reporter="reporter:x")],
            received_at_millis=NOON_MILLIS,
        )
    for wanted in WANTED:
        backend_of(f"sqlite:///{path}").ask_correction(wanted, asked_at_millis=NOON_MILLIS)
    empty = path.read_bytes()
    statement, kills = 0, 0
    while True:
        path.write_bytes(empty)
        for each in path.parent.glob("ledger.sqlite3-*"):
            each.unlink()
        was_killed = killed_at(path, statement)
        with closing(SqliteReader(path)) as reader:
            assert reader.audit().problems == []
        while killed_at(path, 10**6):
            raise AssertionError
        with closing(SqliteReader(path)) as reader:
            assert reader.audit().problems == []
            assert [(it.reports, it.raw_bytes) for it in reader.corrections(limit=9)] == [
                (0, 10),
                (REPORTS, -int("1" * REPORTS)),
            ]
            assert reader.facts().upload_bytes + reader.facts().download_bytes == 15
            assert reader.facts().billed_bytes == 25
        with closing(sqlite3.connect(path)) as db:
            lines = db.execute("SELECT count(*), count(voids_seq) FROM correction_line").fetchone()
        assert lines == (REPORTS + 1, REPORTS)
        if not was_killed:
            break
        kills += 1
        statement += 1
    assert kills > 40
