"""How long each query of each dashboard and alert rule takes, with many users and a month of data.

    uv run --group bench python benchmarks/dashboards.py [--users 10000] [--days 30]
    … --url http://127.0.0.1:8086 --token TOKEN [--org vpn] [--keeps-data]

Fills a real InfluxDB with the product's own points: reports, daily sums, sums of servers, quota
and usage of every user every ten minutes, lists and sums of resellers, events. Without `--url` it
starts the `influxd` on the PATH, 2.x or 1.x. Every InfluxQL query is then run as Grafana sends it:
for the range its dashboard opens with and for all days, and for both records of traffic. Prints
the slowest first; exit code 1 if one takes longer than `--most-seconds`.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

from collector.influx.access import InfluxAccess  # noqa: E402
from collector.influx.client import Influx  # noqa: E402
from collector.influx.outcome import Stored  # noqa: E402
from collector.influx.points import daily_page, raw_page  # noqa: E402
from collector.ledger import DayRow, ReportRow  # noqa: E402
from collector.reports.report import DAY_MILLIS  # noqa: E402
from collector.schema import DATABASE, Policy  # noqa: E402
from marzban_bridge.panels.names import PublicName  # noqa: E402
from marzban_bridge.panels.users import ResetStrategy, Status  # noqa: E402
from marzban_bridge.quota.account import Account, Event  # noqa: E402
from marzban_bridge.quota.usage import Totals, UsageMark  # noqa: E402
from marzban_bridge.store.events import RecordedEvent  # noqa: E402
from marzban_bridge.timeseries.figures import UserFigures, figures_of  # noqa: E402
from marzban_bridge.timeseries.points import event_line, usage_line  # noqa: E402
from marzban_bridge.timeseries.summary import list_lines, reseller_lines  # noqa: E402
from tests.support.bridge.bridge_builders import account, gib, panel_user  # noqa: E402
from tests.support.engines.influx_engine import InfluxEngine  # noqa: E402
from tests.support.grafana.grafana_files import (  # noqa: E402
    INFLUX,
    Query,
    all_queries,
    dashboards,
)
from tests.support.grafana.grafana_interpolation import (  # noqa: E402
    TimeRange,
    duration_millis,
    interpolate,
    interval,
)

PAGE = 5000
SERVERS_OF_A_USER = 2
SNAPSHOT = timedelta(minutes=10)
EVENTS_APART = timedelta(seconds=144)
"""Three hundred events a day, and as many that are routine."""
console = Console(width=150)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much there is."""

    users: int
    servers: int
    resellers: int
    days: int
    reports_per_day: int
    """Of each user."""


@dataclass(frozen=True, slots=True)
class Timed:
    """A query as it was sent, and how long it took at best of the rounds."""

    place: str
    range: str
    policy: str
    seconds: float
    rows: int


class Seeder:
    """Writes a month of a fleet's life into an InfluxDB."""

    def __init__(self, influx: Influx, scale: Scale, *, now: datetime) -> None:
        self._influx, self._scale, self._now = influx, scale, now
        self._now_millis = int(now.timestamp() * 1000)
        # Not quite all days, or InfluxDB drops what expires while this runs.
        self._kept = timedelta(days=scale.days) - timedelta(hours=2)
        self._oldest_millis = int((now - self._kept).timestamp() * 1000)
        self._dice = random.Random(16)  # noqa: S311 - the same traffic each time
        self.points = 0

    def write(self, policy: Policy, lines: Iterable[object]) -> None:
        """Write lines in pages; RuntimeError if one is not stored."""
        page: list[str] = []
        for line in lines:
            page.append(str(line))
            if len(page) == PAGE:
                self._flush(policy, page)
                page = []
        if page:
            self._flush(policy, page)

    def _flush(self, policy: Policy, page: list[str]) -> None:
        outcome = self._influx.write(policy.bucket, page)
        if outcome != Stored():
            raise RuntimeError(f"{policy.bucket}: {outcome}, for example {page[0]}")
        self.points += len(page)

    def traffic(self) -> None:
        """Write reports, the sums of servers, and the sums of days."""
        scale, seq = self._scale, 0
        servers = [f"de-{n:02}.example.com" for n in range(scale.servers)]
        homes = [self._dice.sample(servers, SERVERS_OF_A_USER) for _ in range(scale.users)]
        for days_ago in range(scale.days, -1, -1):
            rows: list[ReportRow] = []
            day = self._now_millis // DAY_MILLIS - days_ago
            for user, home in enumerate(homes):
                start = day * DAY_MILLIS + self._dice.randrange(DAY_MILLIS - 7_200_000)
                for n in range(scale.reports_per_day):
                    at_millis = start + n * 300_000
                    if at_millis < self._now_millis:
                        rows.append(self._report(user, home[n % SERVERS_OF_A_USER], at_millis))
            rows.sort(key=lambda row: row.reported_at_millis)
            rows = [with_seq(row, seq + n) for n, row in enumerate(rows, start=1)]
            if not rows:
                continue
            page = raw_page(rows, oldest_millis=self._oldest_millis)
            self.write(Policy.RAW, [*page.lines, *page.sums])
            self.write(Policy.DAILY, daily_page(days_of(rows, day), oldest_millis=0).lines)
            seq = rows[-1].seq
            console.print(f"day {day}: {seq:,} reports so far", highlight=False)

    def _report(self, user: int, server: str, at_millis: int) -> ReportRow:
        upload, download = self._dice.randrange(10**7), self._dice.randrange(10**8)
        return ReportRow(
            0,
            name_of(user),
            server,
            443,
            "vless",
            upload,
            download,
            upload + download,
            1,
            at_millis,
        )

    def usage(self) -> None:
        """Write what the bridge does: of all users for six hours, of one user for all days."""
        accounts = [self._account(user) for user in range(self._scale.users)]
        every = list(moments(self._now, timedelta(hours=6)))
        for at in every:
            self.write(Policy.RAW, (self._line(each, at) for each in accounts))
        long_ago = moments(self._now, self._kept)
        self.write(Policy.RAW, (self._line(accounts[7], at) for at in long_ago if at < every[-1]))
        users = [figures(each, self._now) for each in accounts]
        at_millis = self._now_millis
        lines = list_lines(users, ["default"], at_millis=at_millis)
        lines += reseller_lines(users, at_millis=at_millis)
        bare = [str(line).rpartition(" ")[0] for line in lines]
        for at in moments(self._now, self._kept):
            nanos = int(at.timestamp() * 1000) * 10**6
            self.write(Policy.RAW, (f"{line} {nanos}" for line in bare))

    def events(self) -> None:
        """Write the events of all days; every other is routine."""
        lines = []
        for seq in range(int(self._kept / EVENTS_APART)):
            at = self._now - seq * EVENTS_APART
            event = Event(kind="limited" if seq % 2 else "published", text="1 GiB of 10 GiB left")
            found = RecordedEvent(
                seq=seq,
                at=at,
                username=name_of(seq % self._scale.users),
                event=event,
                panel="default",
            )
            lines.append(event_line(found))
        self.write(Policy.RAW, lines)

    def _account(self, user: int) -> Account:
        quota, used = gib(10), self._dice.random() * 1.15
        expire = int((self._now + timedelta(days=self._dice.randrange(1, 90))).timestamp())
        seen = panel_user(
            username=name_of(user),
            admin=f"reseller{user % self._scale.resellers:03}",
            used_bytes=int(quota * used / 4),
            data_limit_bytes=quota,
            status=Status.LIMITED if used >= 1 else Status.ACTIVE,
            reset_strategy=ResetStrategy.MONTH if user % 2 else ResetStrategy.NO_RESET,
            expire=expire,
            online_at=self._now,
        )
        return account(
            seen,
            quota_bytes=quota,
            seen_total_bytes=int(quota * used * 3 / 4),
            period_started_at=self._now - timedelta(days=self._dice.randrange(30)),
            usage_marks=(UsageMark(at=self._now - timedelta(days=7), total_bytes=0),),
        )

    def _line(self, each: Account, at: datetime) -> object:
        return usage_line(each, totals=totals_of(each), at=at)


def totals_of(each: Account) -> Totals:
    """Return the ledger's totals of a seeded account."""
    return Totals(billed_bytes=each.seen_total_bytes, raw_bytes=each.seen_total_bytes)


def figures(each: Account, at: datetime) -> UserFigures:
    """Return what lists and sums have of a seeded account."""
    return figures_of(each, totals_of(each), at=at, name=PublicName("default", each.username))


def name_of(user: int) -> str:
    """Return a user's name."""
    return f"user{user:05}"


def with_seq(row: ReportRow, seq: int) -> ReportRow:
    """Return the row with its number."""
    return ReportRow(seq, *(getattr(row, name) for name in row.__struct_fields__[1:]))


def moments(now: datetime, span: timedelta) -> Iterator[datetime]:
    """Yield the moments of snapshots, from now back."""
    at = now
    while at > now - span:
        yield at
        at -= SNAPSHOT


def days_of(rows: Iterable[ReportRow], day: int) -> list[DayRow]:
    """Return the sums of one day's reports."""
    sums: dict[tuple[str, str], DayRow] = {}
    for row in rows:
        old = sums.get((row.username, row.server))
        sums[row.username, row.server] = DayRow(
            change_seq=row.seq,
            day=day,
            username=row.username,
            server=row.server,
            port=row.port,
            protocol=row.protocol,
            upload_bytes=row.upload_bytes + (old.upload_bytes if old else 0),
            download_bytes=row.download_bytes + (old.download_bytes if old else 0),
            billed_bytes=row.billed_bytes + (old.billed_bytes if old else 0),
            connections=row.connections + (old.connections if old else 0),
            reports=1 + (old.reports if old else 0),
            last_used_at_millis=row.reported_at_millis,
        )
    return list(sums.values())


class Asker:
    """Sends queries as Grafana does."""

    def __init__(self, access: InfluxAccess, *, now_millis: int, days: int) -> None:
        self._url, self._token = access.url, access.token
        self._client = httpx.Client(timeout=300, trust_env=False)
        self._now_millis, self._days = now_millis, days

    def ranges_of(self, query: Query) -> dict[str, TimeRange]:
        """Return the ranges that a query is asked for, by name."""
        end = self._now_millis
        if query.time_from:
            return {query.time_from: TimeRange(end - duration_millis(query.time_from), end)}
        begins = dashboards()[query.dashboard]["time"]["from"] if query.dashboard else "now-1h"
        spans = {begins.removeprefix("now-"), f"{self._days}d"}
        return {span: TimeRange(end - duration_millis(span), end) for span in spans}

    def timed(self, query: Query, *, rounds: int) -> Iterator[Timed]:
        """Run a query for each range and each record that it may read."""
        policies = list(Policy) if "$policy" in query.text else ["-"]
        for name, time_range in self.ranges_of(query).items():
            for policy in policies:
                step = interval(
                    time_range,
                    max_data_points=query.max_data_points,
                    at_least=query.min_interval,
                )
                text = interpolate(
                    query.text,
                    time_range,
                    {
                        "policy": str(policy),
                        "user": name_of(7),
                        "server": "de-07.example.com",
                        "admin": "reseller007",
                    },
                    step=step,
                )
                found = [self._ask(text) for _ in range(rounds)]
                seconds, rows = min(found)
                yield Timed(query.place, name, str(policy), seconds, rows)

    def _ask(self, text: str) -> tuple[float, int]:
        begun = time.perf_counter()
        answer = self._client.post(
            f"{self._url}/query",
            params={"db": DATABASE, "epoch": "ms"},
            data={"q": text},
            headers={"authorization": f"Token {self._token}"},
        )
        seconds = time.perf_counter() - begun
        answer.raise_for_status()
        rows = 0
        for result in answer.json().get("results", []):
            if "error" in result:
                raise RuntimeError(f"{text}: {result['error']}")
            rows += sum(len(series.get("values", [])) for series in result.get("series", []))
        return seconds, rows


def main() -> int:
    """Fill, ask, print; 1 if a query took too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--servers", type=int, default=50)
    parser.add_argument("--resellers", type=int, default=200)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--reports-per-day", type=int, default=12, help="of each user")
    parser.add_argument("--rounds", type=int, default=3, help="the best of which counts")
    parser.add_argument("--most-seconds", type=float, default=1.0)
    parser.add_argument("--url", help="an InfluxDB with our buckets, in place of one of its own")
    parser.add_argument("--token", default="")
    parser.add_argument("--org", default="vpn")
    parser.add_argument("--keeps-data", action="store_true", help="ask what an earlier run wrote")
    given = parser.parse_args()
    scale = Scale(
        users=given.users,
        servers=given.servers,
        resellers=given.resellers,
        days=given.days,
        reports_per_day=given.reports_per_day,
    )
    with contextlib.ExitStack() as stack:
        if given.url:
            access = InfluxAccess(url=given.url, org=given.org, token=given.token)
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            engine = InfluxEngine(folder)
            stack.callback(engine.close)
            access = engine.access()
            console.print(f"InfluxDB: {engine.description}")
        now = datetime.now(UTC)
        if not given.keeps_data:
            seed(access, scale, now=now)
        asker = Asker(access, now_millis=int(now.timestamp() * 1000), days=given.days)
        found = [
            timed
            for query in all_queries()
            if query.datasource == INFLUX
            for timed in asker.timed(query, rounds=given.rounds)
        ]
    found.sort(key=lambda each: -each.seconds)
    show(found)
    slow = [each for each in found if each.seconds > given.most_seconds]
    verdict = f"{len(slow)} of {len(found)} take longer than {given.most_seconds:g} s"
    console.print(f"{verdict}; the slowest: {found[0].place}, {found[0].seconds:.2f} s")
    return 1 if slow else 0


def seed(access: InfluxAccess, scale: Scale, *, now: datetime) -> None:
    """Write everything, and say how much it was."""
    influx, begun = Influx(access), time.perf_counter()
    seeder = Seeder(influx, scale, now=now.replace(microsecond=0))
    with contextlib.closing(influx):
        seeder.traffic()
        seeder.usage()
        seeder.events()
    console.print(f"{seeder.points:,} points in {time.perf_counter() - begun:.0f} s")


def show(found: list[Timed]) -> None:
    """Print the slowest twenty-five."""
    table = Table(title="Queries, slowest first")
    for column in ("query", "range", "record", "seconds", "rows"):
        table.add_column(column, justify="left" if column == "query" else "right")
    for each in found[:25]:
        table.add_row(each.place, each.range, each.policy, f"{each.seconds:.3f}", f"{each.rows:,}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
