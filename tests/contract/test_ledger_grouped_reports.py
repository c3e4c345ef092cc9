"""A long backlog is exported in large pages, by series: the same points, on either engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise

import pytest

from collector.influx import server_sums
from collector.influx.pages import REQUEST_LINES, PageReader
from collector.influx.points import Page
from collector.influx.server_sums import SLICE_MILLIS
from collector.ledger.corrections import Kind, Wanted
from collector.ledger.engines import backend_of
from collector.schema import Policy
from tests.support.collector.ledgers import (
    NOON_MILLIS,
    PostgresPlace,
    SqlitePlace,
    batch,
    report,
)

BLOCK_ROWS = 20
RAW = Policy.RAW


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr("collector.influx.server_sums.BLOCK_ROWS", BLOCK_ROWS)


@pytest.fixture(params=["sqlite", "postgres"])
def place(request, tmp_path):
    if request.param == "sqlite":
        return SqlitePlace(path=tmp_path / "ledger.sqlite3")
    server = request.getfixturevalue("postgres")
    return PostgresPlace(url=server.url(server.new_database()))


@pytest.fixture
def ledger(place):
    with closing(place.open()) as opened:
        yield opened


@pytest.fixture
def reader(place, ledger):
    with closing(place.reader()) as opened:
        yield opened


def store(ledger, *reports):
    ledger.record([batch(*reports)], received_at_millis=NOON_MILLIS)
    ledger.fold()


def some_reports(count: int, **changes):
    """Return reports of a few users, whose amounts, times and prices all differ."""
    return [
        report(
            **{
                "username": ("alice", "a b,c=d", "quo'te", "сервер 🚀; x")[n % 4],
                "server": f"server-{n % 3}",
                "port": 443 + n % 2,
                "protocol": "vl ess",
                "up": n,
                "down": 10**12 + n,
                "connections": n % 5,
                "at": NOON_MILLIS + n * 40_000,
                "billed": None if n % 2 else 3 * n,
            }
            | changes
        )
        for n in range(count)
    ]


def pages(reader, *, oldest_millis: int = 0) -> PageReader:
    return PageReader(
        reader,
        kept_seconds=lambda _: 1 if oldest_millis else 0,
        now_millis=lambda: oldest_millis - 60_000 + 1000,
        page_rows=5,
    )


def read_through(pages: PageReader, *, most_rows: int) -> Iterator[Page]:
    seq = 0
    while page := pages.after(RAW, seq, most_rows=most_rows):
        yield page
        seq = page.to_seq


def points_of(found: list[Page]) -> dict[str, str]:
    """Return the points as InfluxDB has them in the end: fields by series and time."""
    points = {}
    for page in found:
        for line in (line for lines in page.requests for line in lines):
            rest, _, time = line.rpartition(" ")
            series, _, fields = rest.rpartition(" ")
            points[f"{series} {time}"] = fields
    return points


def test_large_pages_have_the_points_and_sums_of_small_ones(ledger, reader):
    store(ledger, *some_reports(50))
    store(ledger, *some_reports(57))
    small = list(read_through(pages(reader), most_rows=0))
    large = list(read_through(pages(reader), most_rows=100))
    assert points_of(large) == points_of(small)
    assert len(points_of(large)) > 107, "of sums, too"
    assert large[0].to_seq == 100
    assert [large[0].points, sum(each.points for each in large)] == [100, 107]
    assert large[0].is_full


def test_a_page_that_is_read_in_parts_has_the_same_points(ledger, reader, monkeypatch):
    monkeypatch.setattr("collector.ledger.grouped_reports.PART_ROWS", 30)
    store(ledger, *some_reports(107))
    (page, *_) = large = list(read_through(pages(reader), most_rows=100))
    assert page.points == 100
    assert points_of(large) == points_of(list(read_through(pages(reader), most_rows=0)))


def test_the_reports_of_a_series_are_together(ledger, reader):
    store(ledger, *some_reports(40))
    page = pages(reader).after(RAW, 0, most_rows=40)
    (lines,) = page.requests
    series = [line.rpartition(" upload_bytes")[0] for line in lines if line.startswith("traffic,")]
    changes = sum(one != other for one, other in pairwise(series))
    assert changes + 1 == len(set(series)) < 40


def test_no_request_has_more_lines_than_influxdb_advises(ledger, reader, monkeypatch):
    monkeypatch.setattr("collector.influx.pages.REQUEST_LINES", 7)
    store(ledger, *some_reports(20), *[report(up=n) for n in range(20)])
    page = pages(reader).after(RAW, 0, most_rows=40)
    assert max(map(len, page.requests[:-1])) <= 7
    assert len(page.requests[-1]) <= 7 + len(page.sums)
    assert sum(map(len, page.requests)) == 40 + len(page.sums)
    assert REQUEST_LINES == 5000


@pytest.mark.parametrize(
    ("stored", "seq"),
    [(15, 0), (19, 0), (45, 3), (45, 40)],
    ids=["few", "no whole block", "within a block", "few left"],
)
def test_a_short_backlog_and_one_that_begins_within_a_block_are_read_in_small_pages(
    ledger, reader, stored, seq
):
    store(ledger, *some_reports(stored))
    page = pages(reader).after(RAW, seq, most_rows=100)
    assert page.to_seq <= seq + 5
    assert not page.packed


def test_reports_that_are_taken_back_are_written_in_their_order(place, ledger, reader):
    store(ledger, *some_reports(25))
    url = f"sqlite:///{place.path}" if isinstance(place, SqlitePlace) else place.url
    backend_of(url).ask_correction(
        Wanted(
            kind=Kind.VOID,
            reason="stolen key",
            actor="root",
            scope="reporter:r",
            since_millis=0,
            until_millis=10 * NOON_MILLIS,
        ),
        asked_at_millis=0,
    )
    while ledger.correct(now_millis=NOON_MILLIS):
        pass
    found = list(read_through(pages(reader), most_rows=1000))
    assert [each.to_seq for each in found if each.packed] == []
    assert points_of(found) == points_of(list(read_through(pages(reader), most_rows=0)))
    large = next(read_through(pages(reader), most_rows=20))
    assert large.to_seq == 20
    assert large.packed, "what is before the first one that is taken back"


@pytest.mark.parametrize("late_millis", [-1, 0, 1, SLICE_MILLIS])
def test_points_that_are_too_old_are_left_out_as_in_small_pages(ledger, reader, late_millis):
    store(ledger, *some_reports(45))
    oldest_millis = NOON_MILLIS + 20 * 40_000 + late_millis
    small = list(read_through(pages(reader, oldest_millis=oldest_millis), most_rows=0))
    large = list(read_through(pages(reader, oldest_millis=oldest_millis), most_rows=20))
    assert points_of(large) == points_of(small)
    assert sum(each.expired for each in large) == sum(each.expired for each in small) > 0
    assert sum(each.points for each in large) == sum(each.points for each in small)


@pytest.mark.parametrize("name", ["username", "server"])
def test_a_name_that_cannot_be_encoded_is_set_aside_as_in_small_pages(ledger, reader, name):
    store(ledger, *some_reports(30), report(**{name: "ends\\"}), *some_reports(29))
    small = list(read_through(pages(reader), most_rows=0))
    large = list(read_through(pages(reader), most_rows=40))
    assert points_of(large) == points_of(small)
    assert [each.refused for each in large if each.refused] == [
        each.refused for each in small if each.refused
    ]
    assert [each.to_seq for each in large if each.packed] == [60]


def test_sums_above_what_a_database_adds_up_are_exact(ledger, reader):
    store(ledger, *[report(f"u{n}", up=2**61, down=2**60, billed=2**61) for n in range(20)])
    page = pages(reader).after(RAW, 0, most_rows=20)
    (line,) = page.sums
    assert f"upload_bytes={20 * 2**61}i,download_bytes={20 * 2**60}i" in line
    assert points_of([page]) == points_of(list(read_through(pages(reader), most_rows=0)))


def test_reports_that_were_purged_are_passed_over(ledger, reader):
    store(ledger, *some_reports(60))
    assert ledger.forget_reports(before_millis=NOON_MILLIS + 1, limit=30, keeps_unexported=False)
    found = list(read_through(pages(reader), most_rows=100))
    assert sum(each.points for each in found) == 30
    assert points_of(found) == points_of(list(read_through(pages(reader), most_rows=0)))
    assert server_sums.BLOCK_ROWS == BLOCK_ROWS
