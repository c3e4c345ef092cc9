"""Reports a second of 1, 2 and 4 collectors on one PostgreSQL, an embedded ledger beside them.

    uv run --group bench python benchmarks/scale.py [--rounds 3] [--seconds 10] [--only-adding-up]
        [--load "single reports"] [--bound]

Everything shares this machine's cores: collectors, PostgreSQL and the sender. So it shows what a
report costs each of them, and whether collectors stand in each other's way; how far more machines
go is worked out from that in docs/scale.md. PostgreSQL is durable (fsync, synchronous commits).

Adding up is measured by itself, too: reports are stored, then numbered, then added up by so many
partitions at once. If partitions do not stand in each other's way, the server's processor time for
a report stays the same, and no session waits for a lock.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import os
import selectors
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

import random  # noqa: E402

import httpx  # noqa: E402
import msgspec  # noqa: E402

from collector.ledger.postgres.writer import PostgresLedger  # noqa: E402
from collector.reports.report import Report  # noqa: E402
from tests.support.collector.collector_process import ADMIN_KEY, KEY, CollectorProcess  # noqa: E402
from tests.support.collector.ledgers import NOON_MILLIS, batch, report  # noqa: E402
from tests.support.engines.postgres_server import PostgresServer, describe  # noqa: E402

USERS, SERVERS = 20_000, 3
LOADS = {"batches of 1,000": (1000, 8), "batches of 50": (50, 32), "single reports": (1, 128)}
"""Reports in a request, and over how many connections."""
KINDS = ("embedded", "1 collector", "2 collectors", "4 collectors")
BOUND = ", bound"
BOUND_KINDS = (f"1 collector{BOUND}", f"4 collectors{BOUND}")
PARTITIONS = {"1 partition": (1, 1), "2, 1 collector": (2, 1), "4, 1 collector": (4, 1)}
PARTITIONS |= {"2, 2 collectors": (2, 2), "4, 4 collectors": (4, 4)}
"""Partitions, and the collectors that add them up."""
ADDED_REPORTS = 200_000
GROUP_REPORTS = 1000
SAMPLE_SECONDS = 0.005
console = Console(width=120)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one arrangement did with one load."""

    acknowledged_per_second: float
    added_up_per_second: float
    p99_millis: float
    collector_micros: float
    """Processor time of all collectors for one report."""
    server_micros: float
    """That of PostgreSQL, with what adding up costs it."""
    log_bytes: float
    """What PostgreSQL wrote ahead for one report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddingUp:
    """What storing, numbering and adding up the same reports took."""

    stored_micros: float
    """Processor time of PostgreSQL for one report; so are the next two."""
    numbered_micros: float
    added_micros: float
    added_per_second: float
    locked_percent: float
    """How often a session that adds up was seen to wait for another's row."""
    other_percent: float
    """How often it was seen to wait for the log's or a page's turn, or for a table to grow."""
    log_bytes: float
    """What adding up wrote ahead for one report."""


class Postgres:
    """A durable server and what it has used."""

    def __init__(self) -> None:
        self.server = PostgresServer(is_durable=True)
        self.server.start("-c", "shared_buffers=1GB", "-c", "max_wal_size=8GB")

    def cpu_seconds(self) -> float:
        """Return the processor time of the server, with its children that have ended."""
        children = Path(f"/proc/{self.server.pid}/task/{self.server.pid}/children").read_text()
        pids = [self.server.pid, *map(int, children.split())]
        return sum(_cpu_seconds(pid, with_children=pid == self.server.pid) for pid in pids)

    def log_position(self) -> int:
        """Return how many bytes were ever written ahead."""
        query = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"
        with psycopg.connect(self.server.url("postgres")) as db:
            row = db.execute(query).fetchone()
            assert row
            return int(row[0])


def main() -> int:
    """Run the rounds and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--only-adding-up", action="store_true")
    parser.add_argument("--load", choices=LOADS, help="this load alone, and no adding up by itself")
    parser.add_argument("--bound", action="store_true", help="also collectors bound to one core")
    arguments = parser.parse_args()
    console.print(f"{os.cpu_count()} cores for all; {describe()}")
    postgres = Postgres()
    runs: dict[tuple[str, str], list[Run]] = {}
    try:
        if arguments.load is None:
            measure_adding_up(postgres, rounds=arguments.rounds)
        if arguments.only_adding_up:
            return 0
        for number in range(arguments.rounds):
            for load in [arguments.load] if arguments.load else LOADS:
                for kind in KINDS + BOUND_KINDS * arguments.bound:
                    run = measure(kind, load, postgres, seconds=arguments.seconds)
                    runs.setdefault((load, kind), []).append(run)
                    console.print(
                        f"round {number + 1}: {load}, {kind}: {run.acknowledged_per_second:,.0f}/s"
                    )
        show(runs)
        if arguments.load is None:
            console.print(sizes(postgres))
    finally:
        postgres.server.close()
    return 0


@contextlib.contextmanager
def collectors(kind: str, url: str) -> Iterator[list[CollectorProcess]]:
    """Run an arrangement."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        found = []
        for number in range(1 if kind == "embedded" else int(kind[0])):
            home = Path(folder) / str(number)
            home.mkdir()
            environment = {"COLLECTOR_KEY_REQUESTS_PER_SECOND": "0"}
            if kind != "embedded":
                environment["LEDGER_URL"] = url
            process = CollectorProcess(home, environment)
            stack.callback(process.kill)
            with _on_one_core(number) if kind.endswith(BOUND) else contextlib.nullcontext():
                process.start()
            found.append(process)
        yield found


@contextlib.contextmanager
def _on_one_core(number: int) -> Iterator[None]:
    """Have what is started meanwhile run on one core, as `taskset` does; collectors take turns."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(cores)[number % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def measure(kind: str, load: str, postgres: Postgres, *, seconds: float) -> Run:
    """Send a load for some time, then wait until all of it is in the sums."""
    size, connections = LOADS[load]
    url = postgres.server.url(postgres.server.new_database())
    with collectors(kind, url) as processes:
        ports = [each.port for each in processes]
        for port in ports:
            report_every_series(port)
        send(ports, size, connections, seconds=min(2.0, seconds / 4))
        until_added_up(ports[0])
        pids = [each.pid for each in processes if each.pid]
        cpu = sum(map(_cpu_seconds, pids)), postgres.cpu_seconds(), postgres.log_position()
        started_at = time.perf_counter()
        millis = send(ports, size, connections, seconds=seconds)
        took = time.perf_counter() - started_at
        until_added_up(ports[0])
        took_in_all = time.perf_counter() - started_at
        collector_seconds = sum(map(_cpu_seconds, pids)) - cpu[0]
        server_seconds = postgres.cpu_seconds() - cpu[1]
        log_bytes = postgres.log_position() - cpu[2]
    reports = len(millis) * size
    return Run(
        acknowledged_per_second=reports / took,
        added_up_per_second=reports / took_in_all,
        p99_millis=sorted(millis)[int(len(millis) * 0.99)],
        collector_micros=collector_seconds / reports * 1e6,
        server_micros=0 if kind == "embedded" else server_seconds / reports * 1e6,
        log_bytes=0 if kind == "embedded" else log_bytes / reports,
    )


def measure_adding_up(postgres: Postgres, *, rounds: int) -> None:
    """Add up the same reports by different numbers of partitions, in turns; print the medians."""
    found: dict[str, list[AddingUp]] = {}
    for number in range(rounds):
        for kind, (partitions, collectors) in PARTITIONS.items():
            took = add_up(postgres, partitions, collectors)
            found.setdefault(kind, []).append(took)
            console.print(f"round {number + 1}: {kind}: {took.added_per_second:,.0f} sums/s")
    table = Table(title=f"adding up {ADDED_REPORTS:,} reports", title_justify="left")
    columns = {
        "added up/s": ("added_per_second", "{:,.0f}"),
        "adding up": ("added_micros", "{:.1f} µs"),
        "numbering": ("numbered_micros", "{:.1f} µs"),
        "storing": ("stored_micros", "{:.1f} µs"),
        "waits for rows": ("locked_percent", "{:.1f} %"),
        "for pages": ("other_percent", "{:.1f} %"),
        "written ahead": ("log_bytes", "{:,.0f} B"),
    }
    for column in ("", *columns):
        table.add_column(column, justify="right" if column else "left")
    for kind, each in found.items():
        medians = (
            text.format(statistics.median(getattr(one, name) for one in each))
            for name, text in columns.values()
        )
        table.add_row(kind, *medians)
    console.print(table)


def add_up(postgres: Postgres, partitions: int, collectors: int) -> AddingUp:
    """Store reports, number them, and have each partition added up by a thread."""
    url = postgres.server.url(postgres.server.new_database())
    with contextlib.ExitStack() as stack:
        ledgers = [
            stack.enter_context(contextlib.closing(PostgresLedger(url, partitions=partitions)))
            for _ in range(collectors)
        ]
        ledgers[0].record([batch(*_reports(1000))], received_at_millis=NOON_MILLIS)
        for name in range(0, USERS, GROUP_REPORTS):  # every series there will be
            every = [
                _report(user, n) for user in range(name, name + GROUP_REPORTS) for n in range(3)
            ]
            ledgers[0].record([batch(*every)], received_at_millis=NOON_MILLIS)
        cpu = [postgres.cpu_seconds()]
        for _ in range(ADDED_REPORTS // GROUP_REPORTS):
            reports = _reports(GROUP_REPORTS)
            ledgers[0].record([batch(*reports)], received_at_millis=NOON_MILLIS, defers_sums=True)
        cpu.append(postgres.cpu_seconds())
        waits = _Waits(url)
        stack.callback(waits.close)
        numbered = added = took = 0.0
        written = 0
        while ledgers[0]._number():  # noqa: SLF001 - a round, as `lead` has it
            cpu.append(postgres.cpu_seconds())
            written -= postgres.log_position()
            took += _add_up_round(ledgers, partitions, waits)
            written += postgres.log_position()
            cpu.append(postgres.cpu_seconds())
            numbered, added = numbered + cpu[-2] - cpu[-3], added + cpu[-1] - cpu[-2]
        added -= waits.cpu_seconds()
    return AddingUp(
        stored_micros=(cpu[1] - cpu[0]) / ADDED_REPORTS * 1e6,
        numbered_micros=numbered / ADDED_REPORTS * 1e6,
        added_micros=added / ADDED_REPORTS * 1e6,
        added_per_second=ADDED_REPORTS / took,
        locked_percent=waits.percent("Lock/transactionid", "Lock/tuple"),
        other_percent=waits.percent("LWLock", "Lock/extend"),
        log_bytes=written / ADDED_REPORTS,
    )


def _add_up_round(ledgers: Sequence[PostgresLedger], partitions: int, waits: _Waits) -> float:
    """Add up what is numbered, all partitions at once; return how many seconds that took."""
    threads = [
        threading.Thread(target=_add_up_all, args=(ledgers[part % len(ledgers)], part))
        for part in range(partitions)
    ]
    started_at = time.perf_counter()
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        waits.sample()
        time.sleep(SAMPLE_SECONDS)
    return time.perf_counter() - started_at


def _add_up_all(ledger: PostgresLedger, part: int) -> None:
    while ledger.add_up(part):
        pass


class _Waits:
    """What the sessions that add up wait for, sampled."""

    def __init__(self, url: str) -> None:
        self._db = psycopg.connect(url, autocommit=True)
        self._pid = self._db.info.backend_pid
        self._kinds: list[str] = []

    def sample(self) -> None:
        query = (
            "SELECT coalesce(wait_event_type || '/' || wait_event, '') FROM pg_stat_activity "
            "WHERE state = 'active' AND datname = current_database() AND pid <> pg_backend_pid()"
        )
        self._kinds += [kind for (kind,) in self._db.execute(query)]

    def percent(self, *kinds: str) -> float:
        found = sum(each.startswith(kinds) for each in self._kinds)
        return found / max(1, len(self._kinds)) * 100

    def cpu_seconds(self) -> float:
        return _cpu_seconds(self._pid)

    def close(self) -> None:
        self._db.close()


def _reports(count: int) -> list[Report]:
    return [_report(_dice.randrange(USERS), _dice.randrange(SERVERS)) for _ in range(count)]


def _report(user: int, server: int) -> Report:
    key = os.urandom(8).hex()
    return report(f"user{user}", server=f"server-{server}", up=1000, down=9000, key=key)


def report_every_series(port: int) -> None:
    """Have a collector know all series that there will be, as in operation."""
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as client:
        for first in range(0, USERS, 1000):
            for server in range(SERVERS):
                reports = [_wire(user, server) for user in range(first, first + 1000)]
                client.post("/v1/reports", json=reports).raise_for_status()


def until_added_up(port: int) -> None:
    """Wait until every report acknowledged so far is in the sums."""
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    while True:
        found = httpx.get(f"http://127.0.0.1:{port}/v1/usage", headers=headers, timeout=60)
        if found.status_code == 200:
            return


_dice = random.Random(7)  # noqa: S311 - made-up reports
_TAG = "a-tag-of-12-"


@functools.cache
def _templates(size: int) -> list[bytes]:
    """Make requests whose ids begin with a tag: to make each anew would take the sender longest."""
    return [_request(size) for _ in range(max(40, 20_000 // size // 4))]


def _requests(size: int) -> Iterator[bytes]:
    templates = _templates(size)
    for number in itertools.count():
        tag = f"{os.urandom(4).hex()}{number % 10_000:04}".encode()
        yield templates[number % len(templates)].replace(_TAG.encode(), tag)


def _wire(user: int, server: int, **more: str) -> dict[str, object]:
    return {
        "user_token": f"user{user}",
        "server": f"server-{server}",
        "port": 443,
        "protocol": "vless",
        "bytes_uploaded": 1000,
        "bytes_downloaded": 9000,
        **more,
    }


def _request(size: int) -> bytes:
    reports = [
        _wire(_dice.randrange(USERS), _dice.randrange(SERVERS), report_id=f"{_TAG}{number}")
        for number in range(size)
    ]
    body = msgspec.json.encode(reports if size > 1 else reports[0])
    head = (
        f"POST /v1/reports HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def send(ports: Sequence[int], size: int, connections: int, *, seconds: float) -> list[float]:
    """Send over so many connections, each waiting for its answer; return milliseconds."""
    waiting = _requests(size)
    next(waiting)  # the templates are made before the clock runs
    until = time.perf_counter() + seconds
    millis: list[float] = []
    with contextlib.ExitStack() as open_ones, selectors.DefaultSelector() as selector:
        sent_at: dict[socket.socket, float] = {}

        def next_one(connection: socket.socket) -> None:
            if time.perf_counter() < until:
                connection.sendall(next(waiting))
                sent_at[connection] = time.perf_counter()
                selector.register(connection, selectors.EVENT_READ)

        for number in range(connections):
            address = ("127.0.0.1", ports[number % len(ports)])
            next_one(open_ones.enter_context(socket.create_connection(address)))
        answers: dict[socket.socket, bytes] = dict.fromkeys(sent_at, b"")
        while selector.get_map():
            for key, _ in selector.select():
                connection: socket.socket = key.fileobj  # type: ignore[assignment]
                answers[connection] += connection.recv(65536)
                if not answers[connection].endswith(b"}"):
                    continue
                assert answers[connection].startswith(b"HTTP/1.1 200"), answers[connection][:300]
                answers[connection] = b""
                millis.append((time.perf_counter() - sent_at[connection]) * 1000)
                selector.unregister(connection)
                next_one(connection)
    return millis


def sizes(postgres: Postgres) -> str:
    """Fill a ledger, and return what a report, a user and a day's row take on disk."""
    url = postgres.server.url(postgres.server.new_database())
    with collectors("2 collectors", url) as processes:
        ports = [each.port for each in processes]
        millis = send(ports, 1000, 8, seconds=8)
        until_added_up(ports[0])
    with psycopg.connect(url, options="-c search_path=traffic", autocommit=True) as db:
        db.execute("VACUUM ANALYZE")
        found = []
        for table in ("report", "usage_day", "series", "user_total"):
            row = db.execute(
                f"SELECT pg_total_relation_size('{table}'), count(*) FROM {table}"  # noqa: S608 - fixed names
            ).fetchone()
            assert row
            found.append(f"{table}: {row[0] / row[1]:,.0f} bytes a row ({row[1]:,} rows)")
    return f"{len(millis) * 1000:,} reports. " + "; ".join(found)


def _cpu_seconds(pid: int, *, with_children: bool = False) -> float:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # it has ended, and is counted with its parent's children from now on
        return 0.0
    fields = stat.rpartition(")")[2].split()
    ticks = sum(map(int, fields[11:15] if with_children else fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def show(runs: dict[tuple[str, str], list[Run]]) -> None:
    """Print the medians."""
    for load in dict.fromkeys(load for load, _ in runs):
        table = Table(title=f"{load}, {LOADS[load][1]} connections", title_justify="left")
        columns = ("", "acknowledged/s", "in the sums/s", "p99 ms")
        for column in (*columns, "collectors' CPU", "PostgreSQL's CPU", "written ahead"):
            table.add_column(column, justify="right" if column else "left")
        for (of, kind), each in runs.items():
            if of == load:
                table.add_row(
                    kind,
                    f"{_median(each, 'acknowledged_per_second'):,.0f}",
                    f"{_median(each, 'added_up_per_second'):,.0f}",
                    f"{_median(each, 'p99_millis'):.0f}",
                    f"{_median(each, 'collector_micros'):.1f} µs",
                    f"{_median(each, 'server_micros'):.1f} µs",
                    f"{_median(each, 'log_bytes'):,.0f} B",
                )
        console.print(table)


def _median(runs: Sequence[Run], name: str) -> float:
    return statistics.median(getattr(each, name) for each in runs)


if __name__ == "__main__":
    sys.exit(main())
