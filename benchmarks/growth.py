"""Whether reports are taken as fast by a ledger that is full, and what one costs in bytes.

    uv run --group bench python benchmarks/growth.py [--reports 10000000] [--users 100000]

Fills a ledger as life would over the deduplication window, then measures it beside an empty one, in
turns: without a server and over HTTP. The server runs on core 0 alone, the sender on core 1. States
bytes on disk, the time from a start to the first accepted report, memory, how long questions take,
what purging costs, and processor time a report, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import random
import re
import shutil
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

from collector.ledger import Batch  # noqa: E402
from collector.ledger.sqlite.file import connect  # noqa: E402
from collector.ledger.sqlite.writer import SqliteLedger  # noqa: E402
from collector.reports.report import DAY_MILLIS, Limits, Report, purge_horizon_millis  # noqa: E402
from collector.runtime.wall_clock import wall_clock_millis  # noqa: E402
from tests.support.collector.collector_process import ADMIN_KEY, KEY, CollectorProcess  # noqa: E402

SERVERS = 3
FILL_GROUP = 10_000
FILL_FOLD_EVERY = 5
"""Groups: 50,000 reports, the most that a busy collector leaves to be added up."""
OVERDUE_SHARE = 0.05
"""So much of what is filled in is older than ids need to be remembered, and may be purged."""
BATCH = 1000
FOLD_GROUPS = (50, 150)
"""After so many groups a ledger alone adds up; a busy collector adds 200,000 reports up at once."""
QUIET_SECONDS = 2
"""After a second without a request a collector gives back memory that a load left free."""
PURGE_EVERY = 5
"""Groups; a collector that purges while it is busy does so about as often."""
PURGE_ROWS = 5000
BYTES_TO_RESERVE = 300
"""Of disk for a report: the file, its write-ahead log, and room."""
SERVER_CORE, SENDER_CORE = {0}, {1}
EMPTY, FULL = "empty", "full"
QUESTIONS = (
    "/healthz",
    "/v1/usage",
    "/v1/usage?days=7",
    "/v1/usage/user7",
    "/v1/usage/user7?days=7",
    "/v1/servers",
    "/v1/servers?days=7",
    "/v1/database",
    "/v1/usage/changes?after=0&limit=1000",
    "/metrics",
)
TABLES = {
    "report": "reports",
    "report_key_recent": "ids",
    "report_key_middle": "ids",
    "report_key_0": "ids",
    "report_key_1": "ids",
    "series": "users and servers",
    "sqlite_autoindex_series_1": "users and servers",
    "user_total": "users and servers",
    "user_total_change": "users and servers",
    "usage_day": "days",
    "usage_day_change": "days",
}
console = Console(width=110)
dice = random.Random(7)  # noqa: S311 - made-up reports


class Rate(NamedTuple):
    """What one round measured."""

    per_second: float
    cpu_micros: float
    """Processor time for each report, of the process that stores."""


@dataclass(frozen=True, slots=True)
class Rates:
    """The rounds, on an empty ledger and on the full one."""

    name: str
    runs: Mapping[str, list[Rate]]


def main() -> int:
    """Fill, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", type=int, default=10_000_000, help="in the full ledger")
    parser.add_argument("--users", type=int, default=100_000, help="on three servers each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where there is room; default: temporary files")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, SENDER_CORE)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        require_room(folder, arguments.reports * BYTES_TO_RESERVE)
        full = folder / FULL / "ledger.sqlite3"
        fill(full, reports=arguments.reports, users=arguments.users)
        show_sizes(full, users=arguments.users)
        show_opening(full)
        show_starts(full.parent, users=arguments.users)
        rates = [
            bare_rates(
                folder, full, users=arguments.users, rounds=arguments.rounds, fold_every=every
            )
            for every in FOLD_GROUPS
        ]
        rates += served_rates(folder, full.parent, users=arguments.users, rounds=arguments.rounds)
        show_rates(rates)
        show_purging(full, users=arguments.users)
    return 0


def require_room(folder: Path, needed_bytes: int) -> None:
    """End where the disk is too small."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise SystemExit(f"{folder} has {free_bytes:,} bytes of room, {needed_bytes:,} are needed")


def reports_of(users: int, count: int, *, reported_at_millis: int) -> list[Report]:
    """Return made-up reports of random users, each with an id."""
    return [
        Report(
            f"user{dice.randrange(users)}",
            f"server-{dice.randrange(SERVERS)}",
            443,
            "vless",
            1000,
            9000,
            1,
            reported_at_millis,
            dice.randbytes(16),
        )
        for _ in range(count)
    ]


def fill(path: Path, *, reports: int, users: int) -> None:
    """Store reports as if they had come evenly until now; the first of them may be purged."""
    now_millis = wall_clock_millis()
    kept_millis = now_millis - horizon_millis(now_millis)
    span_millis = int(kept_millis * (1 + OVERDUE_SHARE))
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    started_at = time.perf_counter()
    with closing(SqliteLedger(path)) as ledger, Progress(*columns, console=console) as progress:
        task = progress.add_task("filling", total=reports)
        for number, stored in enumerate(range(0, reports, FILL_GROUP), start=1):
            at_millis = now_millis - span_millis + span_millis * stored // reports
            group = reports_of(
                users, min(FILL_GROUP, reports - stored), reported_at_millis=at_millis
            )
            batch = Batch("reporter:load", group)
            ledger.record([batch], received_at_millis=at_millis, defers_sums=True)
            if number % FILL_FOLD_EVERY == 0:
                ledger.fold()
            progress.advance(task, len(group))
        ledger.fold()
    seconds = time.perf_counter() - started_at
    console.print(f"filled at {reports / seconds:,.0f} reports/s, in groups of {FILL_GROUP:,}")


def horizon_millis(now_millis: int) -> int:
    """Return before which arrival reports are purged, with the settings' defaults."""
    limits = Limits(ceiling_bytes=2**40, dedup_window_millis=7 * DAY_MILLIS)
    return purge_horizon_millis(limits, now_millis=now_millis)


def show_sizes(path: Path, *, users: int) -> None:
    """Print what the file holds, by what it is for."""
    with closing(connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        counts = {
            "reports": db.execute("SELECT count(*) FROM report").fetchone()[0],
            "ids": db.execute("SELECT count(*) FROM report").fetchone()[0],
            "users and servers": users,
            "days": db.execute("SELECT count(*) FROM usage_day").fetchone()[0],
        }
        sizes = dict.fromkeys(counts, 0)
        try:
            pages = db.execute("SELECT name, pgsize FROM dbstat WHERE aggregate = TRUE").fetchall()
        except sqlite3.OperationalError:
            console.print("this SQLite has no dbstat: the file's size alone is known")
            pages = []
        for name, size_bytes in pages:
            if name in TABLES:
                sizes[TABLES[name]] += size_bytes
    size_bytes = path.stat().st_size
    console.print(
        f"the ledger is {size_bytes / 1e6:,.0f} MB: {size_bytes / counts['reports']:.0f} bytes for "
        "each report, users and all"
    )
    table = Table(title="What is in it", title_justify="left")
    for column in ("", "MB", "how many", "bytes each"):
        table.add_column(column, justify="right" if column else "left")
    each_is = {
        "users and servers": f"users, on {SERVERS} servers",
        "days": "a user, server and day",
    }
    for kind, count in counts.items():
        table.add_row(
            each_is.get(kind, kind),
            f"{sizes[kind] / 1e6:,.0f}",
            f"{count:,}",
            f"{sizes[kind] / count:.0f}",
        )
    console.print(table)


def show_opening(path: Path) -> None:
    """Print how long a collector that starts is busy with the file."""
    started_at = time.perf_counter()
    with closing(SqliteLedger(path)):
        seconds = time.perf_counter() - started_at
    with closing(connect(path)) as db:
        started_at = time.perf_counter()
        db.execute("PRAGMA quick_check(3)").fetchone()
        check_seconds = time.perf_counter() - started_at
    console.print(f"opening it takes {seconds:.1f} s, {check_seconds:.1f} s of them the check")


def show_starts(folder: Path, *, users: int) -> None:
    """Print how long after its start a collector has accepted a report; each is ended by SIGKILL.

    The second start finds what the first one left: reports that are in no sum, a write-ahead log,
    and a check that was not finished.
    """
    table = Table(title="Starts on the full ledger", title_justify="left")
    columns = ("", "s to the first accepted report", "MB then", "MB when it was checked", "at most")
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    log = folder / "collector.log"
    for kind in ("after a clean end", "after a kill in its check", "after a kill"):
        known = len(log.read_text()) if log.exists() else 0
        started_at = time.perf_counter()
        with serving(folder) as collector:
            send(collector.port, [body(users, 1)], 1)
            seconds = time.perf_counter() - started_at
            memory = [resident_bytes(collector)]
            if kind == "after a clean end":
                send(collector.port, [body(users, BATCH) for _ in range(100)], 4)
            else:
                await_check(collector, known)
            memory += [resident_bytes(collector), resident_bytes(collector, "VmHWM")]
        table.add_row(kind, f"{seconds:.1f}", *(f"{each / 1e6:.0f}" for each in memory))
    console.print(table)


def await_check(collector: CollectorProcess, known: int) -> None:
    """Wait until a collector says, after so much of its log, that its ledger is whole."""
    deadline = time.monotonic() + 600
    while "is whole: read in" not in collector.log.read_text()[known:]:
        if time.monotonic() > deadline:
            raise SystemExit("the ledger was not checked within ten minutes")
        time.sleep(0.1)


def bare_rates(
    folder: Path, full: Path, *, users: int, rounds: int, fold_every: int = FOLD_GROUPS[0]
) -> Rates:
    """Measure ledgers without a server, in groups of 1,000, sums included."""
    runs: dict[str, list[Rate]] = {EMPTY: [], FULL: []}
    for number in range(rounds):
        console.print(f"ledgers alone, round {number + 1} of {rounds}")
        for kind, found in runs.items():
            with tempfile.TemporaryDirectory(dir=folder) as other:
                path = full if kind == FULL else Path(other) / "ledger.sqlite3"
                with closing(SqliteLedger(path)) as ledger:
                    if kind == FULL:
                        complete_filter(ledger)
                    found.append(bare_rate(ledger, users=users, fold_every=fold_every))
    return Rates(f"ledger alone, folds of {fold_every * BATCH:,}", runs)


def complete_filter(ledger: SqliteLedger) -> None:
    """Wait until the filter knows the stored ids, as it does some time after a start."""
    while not ledger._filter.is_complete:  # noqa: SLF001
        ledger.record([], received_at_millis=wall_clock_millis(), defers_sums=True)
        time.sleep(0.01)


def bare_rate(
    ledger: SqliteLedger,
    *,
    users: int,
    groups: int = 300,
    fold_every: int = FOLD_GROUPS[0],
    purges: bool = False,
) -> Rate:
    """Return the rate; the first tenth warms up and is not counted."""
    now_millis = wall_clock_millis()
    batches = [
        Batch("reporter:load", reports_of(users, BATCH, reported_at_millis=now_millis))
        for _ in range(groups)
    ]
    warm = groups // 10
    started_at = cpu_at = 0.0
    for number, batch in enumerate(batches):
        if number == warm:
            started_at, cpu_at = time.perf_counter(), time.process_time()
        ledger.record([batch], received_at_millis=now_millis, defers_sums=True)
        if number % fold_every == fold_every - 1:
            ledger.fold()
        if purges and number % PURGE_EVERY == 0:
            purge(ledger)
    ledger.fold()
    reports = (groups - warm) * BATCH
    cpu_seconds = time.process_time() - cpu_at
    return Rate(reports / (time.perf_counter() - started_at), cpu_seconds * 1e6 / reports)


def purge(ledger: SqliteLedger) -> float:
    """Purge as a collector does; return how many seconds nothing was stored meanwhile."""
    started_at = time.perf_counter()
    ledger.forget_reports(
        before_millis=horizon_millis(wall_clock_millis()), limit=PURGE_ROWS, keeps_unexported=False
    )
    return time.perf_counter() - started_at


def show_purging(path: Path, *, users: int) -> None:
    """Print what purging costs, alone and while reports come in."""
    with closing(SqliteLedger(path)) as ledger:
        seconds = [purge(ledger) for _ in range(20)]
        rates: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(3):
            for purges, found in rates.items():
                found.append(bare_rate(ledger, users=users, groups=100, purges=purges).per_second)
        kept = statistics.median(rates[True]) / statistics.median(rates[False])
        # What happens once in a window: the ids of the window before are dropped all at once.
        started_at = time.perf_counter()
        ledger.forget_reports(before_millis=2**62, limit=1, keeps_unexported=False)
        drop_seconds = time.perf_counter() - started_at
    console.print(
        f"purging {PURGE_ROWS:,} reports takes {statistics.median(seconds) * 1000:.0f} ms "
        f"(longest {max(seconds) * 1000:.0f}); purging as many as come in leaves {kept:.2f} of the "
        f"rate; dropping the ids of the window before, once in a window: {drop_seconds:.2f} s"
    )


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[CollectorProcess]:
    """Run a collector on the server's core."""
    folder.mkdir(exist_ok=True)
    # compiled before, as installed: compiling takes memory that a process keeps
    environment = {"COLLECTOR_KEY_REQUESTS_PER_SECOND": "0", "PYTHONPYCACHEPREFIX": ""}
    collector = CollectorProcess(folder, environment)
    os.sched_setaffinity(0, SERVER_CORE)
    try:
        collector.start()
    finally:
        os.sched_setaffinity(0, SENDER_CORE)
    try:
        yield collector
    finally:
        collector.kill()


def served_rates(folder: Path, full: Path, *, users: int, rounds: int) -> list[Rates]:
    """Measure collectors over HTTP, and ask each what people ask."""
    batches: dict[str, list[Rate]] = {EMPTY: [], FULL: []}
    singles: dict[str, list[Rate]] = {EMPTY: [], FULL: []}
    answers: dict[str, list[dict[str, float]]] = {EMPTY: [], FULL: []}
    started_at = time.perf_counter()
    with serving(full) as filled:
        console.print(
            f"a collector is ready {time.perf_counter() - started_at:.1f} s after its start on the "
            f"full ledger, and takes {resident_bytes(filled) / 1e6:.0f} MB of memory"
        )
        for number in range(rounds):
            console.print(f"collectors, round {number + 1} of {rounds}")
            with serving(folder / f"{EMPTY}-{number}") as empty:
                for kind, collector in ((EMPTY, empty), (FULL, filled)):
                    batches[kind].append(served_rate(collector, users, size=BATCH, connections=4))
                    singles[kind].append(served_rate(collector, users, size=1, connections=64))
                    answers[kind].append({path: ask(collector, path) for path in QUESTIONS})
        loaded_bytes = resident_bytes(filled)
        time.sleep(QUIET_SECONDS)
        console.print(
            f"after the load it takes {loaded_bytes / 1e6:.0f} MB, "
            f"{resident_bytes(filled) / 1e6:.0f} once it is quiet, "
            f"and took {resident_bytes(filled, 'VmHWM') / 1e6:.0f} at most"
        )
    show_answers(answers)
    return [
        Rates(f"collector, batches of {BATCH:,}", batches),
        Rates("collector, single reports", singles),
    ]


def resident_bytes(collector: CollectorProcess, kind: str = "VmRSS") -> int:
    """Return how much memory a collector takes; or, as `VmHWM`, took at most."""
    status = Path(f"/proc/{collector.pid}/status").read_text()
    found = re.search(rf"^{kind}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def cpu_seconds_of(collector: CollectorProcess) -> float:
    """Return how much processor time a collector has taken."""
    fields = Path(f"/proc/{collector.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def served_rate(collector: CollectorProcess, users: int, *, size: int, connections: int) -> Rate:
    """Return the rate of reports acknowledged and added up; the first tenth warms up."""
    requests = 400 if size > 1 else 20_000
    bodies = [body(users, size) for _ in range(requests)]
    warm = requests // 10
    send(collector.port, bodies[:warm], connections)
    ask(collector, "/v1/usage/user7")  # is answered when all that came before is added up
    started_at, cpu_at = time.perf_counter(), cpu_seconds_of(collector)
    send(collector.port, bodies[warm:], connections)
    ask(collector, "/v1/usage/user7")
    reports = (requests - warm) * size
    cpu_seconds = cpu_seconds_of(collector) - cpu_at
    return Rate(reports / (time.perf_counter() - started_at), cpu_seconds * 1e6 / reports)


def body(users: int, size: int) -> bytes:
    """Return a request's body."""
    reports = [
        {
            "report_id": f"{dice.getrandbits(64):x}",
            "user_token": f"user{dice.randrange(users)}",
            "server": f"server-{dice.randrange(SERVERS)}",
            "port": 443,
            "protocol": "vless",
            "bytes_uploaded": 1000,
            "bytes_downloaded": 9000,
        }
        for _ in range(size)
    ]
    return msgspec.json.encode(reports)


def send(port: int, bodies: Sequence[bytes], connections: int) -> None:
    """Post bodies over so many connections, each waiting for its answer."""
    waiting = iter(bodies)
    guard = threading.Lock()
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    answered: list[int] = []

    def work() -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            while True:
                with guard:
                    each = next(waiting, None)
                if each is None:
                    return
                connection.request("POST", "/v1/reports", each, headers)
                answer = connection.getresponse()
                answer.read()
                answered.append(answer.status)

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answered == [200] * len(bodies), "a request was not answered with 200"


def ask(collector: CollectorProcess, path: str) -> float:
    """Return how many milliseconds an answer takes."""
    connection = http.client.HTTPConnection("127.0.0.1", collector.port, timeout=60)
    with closing(connection):
        started_at = time.perf_counter()
        connection.request("GET", path, headers={"authorization": f"Bearer {ADMIN_KEY}"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, f"{path}: {answer.status}"
        return (time.perf_counter() - started_at) * 1000


def show_answers(answers: Mapping[str, list[dict[str, float]]]) -> None:
    """Print how long questions take."""
    table = Table(title="Questions, medians in ms", title_justify="left")
    for column in ("", EMPTY, FULL):
        table.add_column(column, justify="right" if column else "left")
    for path in QUESTIONS:
        medians = [statistics.median(each[path] for each in answers[kind]) for kind in answers]
        table.add_row(path, *(f"{median:.1f}" for median in medians))
    console.print(table)


def show_rates(rates: Sequence[Rates]) -> None:
    """Print the medians and their ratios."""
    for title, place in (("Reports a second", 0), ("Processor time a report, µs", 1)):
        table = Table(title=f"{title}, medians", title_justify="left")
        for column in ("", EMPTY, FULL, "ratio"):
            table.add_column(column, justify="right" if column else "left")
        for each in rates:
            empty, full = (
                statistics.median(found[place] for found in each.runs[kind])
                for kind in (EMPTY, FULL)
            )
            ratio = full / empty if place == 0 else empty / full
            digits = 0 if place == 0 else 1
            table.add_row(each.name, f"{empty:,.{digits}f}", f"{full:,.{digits}f}", f"{ratio:.2f}")
        console.print(table)


if __name__ == "__main__":
    sys.exit(main())
