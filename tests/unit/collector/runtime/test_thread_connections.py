"""Connections of threads: each thread has its own, and none is closed while a thread uses it.

Without that the process crashes, see `test_a_reader_is_closed_under_its_queries`.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from collector.runtime.sqlite import thread_connections
from collector.runtime.sqlite.thread_connections import ThreadConnections

ENDLESS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


def in_memory() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", check_same_thread=False)


def in_thread(work: Callable[[], object]) -> Future[object]:
    executor = ThreadPoolExecutor(1)
    future = executor.submit(work)
    executor.shutdown(wait=False)
    return future


def used_by_a_thread(connections: ThreadConnections) -> tuple[Future[object], threading.Event]:
    """Return what a query will answer, before which the thread waits for the event."""
    used, may_end = threading.Event(), threading.Event()

    def work() -> int:
        with connections.use() as db:
            used.set()
            assert may_end.wait(60)
            return int(db.execute("SELECT 7").fetchone()[0])

    done = in_thread(work)
    assert used.wait(60)
    return done, may_end


def test_each_thread_has_one_connection_of_its_own():
    connections = ThreadConnections(in_memory)

    def mine() -> list[int]:
        with connections.use() as first, connections.use() as again:
            return [id(first), id(again)]

    first, again = mine()
    other = in_thread(mine).result()
    assert first == again == mine()[0]
    assert isinstance(other, list)
    assert other[0] == other[1] != first
    connections.close()


def test_a_closed_one_is_not_used_or_opened_any_more():
    opened: list[sqlite3.Connection] = []

    def connect() -> sqlite3.Connection:
        opened.append(in_memory())
        return opened[-1]

    connections = ThreadConnections(connect)
    with connections.use() as db:
        db.execute("SELECT 1")
    connections.close()
    connections.close()
    for use in (connections.use, lambda: in_thread(lambda: connections.use().__enter__()).result()):
        with pytest.raises(sqlite3.ProgrammingError, match="these connections are closed"), use():
            pass
    for each in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
            each.execute("SELECT 1")


def test_a_query_is_interrupted_by_the_close_and_so_is_the_next():
    connections = ThreadConnections(in_memory)
    runs = threading.Event()
    errors: list[str] = []

    def work() -> None:
        with connections.use() as db:
            db.set_progress_handler(runs.set, 1_000)
            for _ in range(2):
                with pytest.raises(sqlite3.OperationalError) as caught:
                    db.execute(ENDLESS).fetchone()
                errors.append(str(caught.value))
                runs.clear()

    done = in_thread(work)
    assert runs.wait(60)
    connections.close()
    assert done.done() or done.result() is None
    assert errors == ["interrupted", "interrupted"]


def test_what_happens_between_two_queries_is_waited_for():
    connections = ThreadConnections(in_memory)
    done, may_end = used_by_a_thread(connections)
    closing = in_thread(connections.close)
    assert not closing.done()
    may_end.set()
    assert closing.result(60) is None
    assert done.result() == 7


def test_a_query_that_does_not_end_does_not_hold_up_the_close(monkeypatch, caplog):
    """Its connection stays open, rather than being freed under it."""
    monkeypatch.setattr(thread_connections, "CLOSE_SECONDS", 0.05)
    connections = ThreadConnections(in_memory)
    done, may_end = used_by_a_thread(connections)
    with caplog.at_level(logging.WARNING):
        connections.close()
    assert caplog.messages == ["an SQLite file stays open in 1 threads: a query does not end"]
    may_end.set()
    assert done.result(60) == 7
