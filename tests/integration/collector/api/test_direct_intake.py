"""Requests are answered, counted and stored alike, in the protocol or by the application."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from collector import direct_intake
from collector.direct_intake import DirectIntake
from collector.errors import DiskFullError, NotStoredError, QueueFullError
from collector.ledger import Receipt
from collector.runtime.http import direct
from tests.support.collector.collectors import ALICE_TOKEN, KEY, CollectorWorld, running, wire
from tests.support.collector.wires import Connection, server_for, whole_answers

REPORTS, ORIGINAL = "/v1/reports", "/api/xpert/traffic-webhook"
WITH_KEY = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
AHEAD = "2100-01-01T00:00:00Z"
OLD = "2000-01-01T00:00:00Z"


def request(
    body: Any = None,
    *,
    path: str = REPORTS,
    method: str = "POST",
    version: str = "1.1",
    headers: Mapping[str, str] = WITH_KEY,
    more: Mapping[str, str] | None = None,
) -> bytes:
    """Return a request as it is sent; a body that is not bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"host": "c.test", "content-length": str(len(content)), **headers, **(more or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"{method} {path} HTTP/{version}\r\n{head}\r\n".encode() + content


def chunked(body: Any) -> bytes:
    content = json.dumps(body).encode()
    head = request(b"", more={"content-length": "", "transfer-encoding": "chunked"})
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)


WITH_ID = wire(report_id="one")
CASES: dict[str, Sequence[bytes]] = {
    "one": [request(wire())],
    "many": [request([wire(), wire("bob")])],
    "an id again": [request(WITH_ID), request(WITH_ID)],
    "an id again in one array": [request([WITH_ID, wire(), WITH_ID])],
    "an id with other content": [request(WITH_ID), request(WITH_ID | {"port": 1})],
    "an id in a header": [request(wire(), more={"webhook-id": "a"})] * 2,
    "ids in a header": [request([wire(), wire()], more={"idempotency-key": "a"})] * 2,
    "an id that is too long": [request(wire(), more={"webhook-id": "a" * 256})],
    "the id of a request": [request(wire(), more={"traffic-collector-request": "abc1"})],
    "no id of a request": [request(wire(), more={"traffic-collector-request": "ä b"})],
    "the original form": [request(wire(), path=ORIGINAL)],
    "an id again in the original form": [request(WITH_ID, path=ORIGINAL)] * 2,
    "zero bytes in the original form": [
        request(wire(bytes_uploaded=0, bytes_downloaded=0), path=ORIGINAL)
    ],
    "an unknown field in the original form": [request(wire(up=1), path=ORIGINAL)],
    "many in the original form": [request([wire()], path=ORIGINAL)],
    "zero bytes": [request(wire(bytes_uploaded=0, bytes_downloaded=0))],
    "zero bytes among others": [request([wire(), wire(bytes_uploaded=0, bytes_downloaded=0)])],
    "an unknown field": [request(wire(upload=5))],
    "an unknown field, strictly": [request(wire(upload=5), path=f"{REPORTS}?strict=1")],
    "strictly": [request(wire(), path=f"{REPORTS}?strict=1")],
    "a refused one among others": [request([wire(), wire(port=70_000)])],
    "refused": [request(wire(port=-1, server=""))],
    "beyond the ceiling": [request(wire(bytes_uploaded=2**60))],
    "in the future": [request(wire(reported_at=AHEAD))],
    "too old": [request(wire(reported_at=OLD))],
    "a whole number as a fraction": [request(wire(port=443.0))],
    "a name with a line break": [request(wire("al\nice"))],
    "a name with a backslash": [request(wire("alice\\"))],
    "a name that is to be normalised": [request(wire("e\N{COMBINING ACUTE ACCENT}ric"))],
    "a token for a name": [request(wire(ALICE_TOKEN))],
    "an unknown token for a name": [request(wire("eHl6LDE3OTU0MzMzODU3PDaZWi-hR"))],
    "no key, a token": [request(wire(ALICE_TOKEN), headers={})],
    "no key": [request(wire(), headers={})],
    "an unknown key": [request(wire(), headers={"authorization": "Bearer rk_unknown"})],
    "another scheme": [request(wire(), headers={"authorization": f"Basic {KEY}"})],
    "a signature": [request(wire(), headers={"webhook-signature": "v1,x", "webhook-id": "x"})],
    "a key and a signature": [request(wire(), more={"webhook-signature": "v1,x"})],
    "gzip": [
        request(gzip.compress(json.dumps(wire()).encode()), more={"content-encoding": "gzip"})
    ],
    "another encoding": [request(wire(), more={"content-encoding": "br"})],
    "as it is": [request(wire(), more={"content-encoding": "identity"})],
    "a byte order mark": [request(b"\xef\xbb\xbf" + json.dumps(wire()).encode())],
    "blanks before": [request(b" \n" + json.dumps(wire()).encode())],
    "no JSON": [request(b"{")],
    "no UTF-8": [request(b'{"user_token": "\xff"}')],
    "another JSON": [request(7), request("x"), request(None)],
    "nothing": [request(b"")],
    "an empty array": [request([])],
    "too long": [request(b"[" + b" " * 5000 + b"]")],
    "a length that is too long": [request(wire(), more={"content-length": "99999"})],
    "in chunks": [chunked(wire())],
    "expected to go on": [request(wire(), more={"expect": "100-continue"})],
    "the last of its connection": [request(wire(), more={"connection": "close"})],
    "of the older version": [request(wire(), version="1.0")],
    "to be upgraded": [request(wire(), more={"connection": "upgrade", "upgrade": "websocket"})],
    "another method": [request(wire(), method=each) for each in ("GET", "PUT", "HEAD")],
    "a slash": [request(wire(), path=f"{REPORTS}/"), request(wire(), path=f"{ORIGINAL}/")],
    "another path": [request(wire(), path="/v1/report")],
    "a path in percents": [request(wire(), path="/v1/report%73")],
    "a whole address": [request(wire(), path=f"http://c.test{REPORTS}")],
    "no HTTP": [b"garbage\r\n\r\n"],
    "a header twice": [
        request(wire()).replace(b"host:", b"webhook-id: a\r\nwebhook-id: b\r\nhost:")
    ],
}
HARD = {
    "more than its sender may at once": (
        {"COLLECTOR_KEY_REQUESTS_PER_SECOND": "1"},
        [request(wire())] * 3,
    ),
    "more bytes than a request may have": (
        {"COLLECTOR_KEY_REQUEST_BYTES": "100"},
        [request([wire(bytes_uploaded=60), wire(bytes_uploaded=60)])],
    ),
    "more bytes than an hour may have": (
        {"COLLECTOR_KEY_HOUR_BYTES": "200", "COLLECTOR_KEY_REQUEST_BYTES": "200"},
        [request(wire(bytes_uploaded=60))] * 3,
    ),
    "more servers than a day may have": (
        {"COLLECTOR_KEY_SERVERS_PER_DAY": "1"},
        [request(wire(server=f"s{number}")) for number in range(3)],
    ),
    "of a reporter outside the quota": (
        {"COLLECTOR_REPORTERS_OUTSIDE_QUOTA": "r"},
        [request(wire())],
    ),
}


class Outcome(NamedTuple):
    answers: list[bytes]
    is_closed: bool
    counted: dict[str, float]
    stored: list[tuple[Any, ...]]
    contacts: dict[str, int]


class World(CollectorWorld):
    """A collector with a connection, whose requests are served in the protocol or not."""

    taken: list[bool]
    """For each request that was offered to a direct route, whether it was taken."""

    def connect(self, *, is_direct: bool = True) -> Connection:
        collector = self.app.state.collector
        return Connection(server_for(self.app, collector.settings, is_direct=is_direct))

    async def outcome(self, connection: Connection) -> Outcome:
        collector = self.app.state.collector
        samples = {
            f"{sample.name}{sorted(sample.labels.items())}": sample.value
            for metric in collector.metrics.registry.collect()
            for sample in metric.samples
            if sample.name.startswith(COUNTED) and not sample.name.endswith("_created")
        }
        rows = await collector.read(lambda reader: reader.reports_after(0, limit=1000))
        return Outcome(
            [_undated(each) for each in whole_answers(connection.wire.written)],
            connection.wire.is_closed,
            samples,
            [tuple(getattr(row, name) for name in row.__struct_fields__) for row in rows],
            collector.contact_log.last_contacts,
        )


COUNTED = ("collector_report", "collector_request", "collector_subscription")


def _undated(answer: bytes) -> bytes:
    head, end, body = answer.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"date:")]
    return b"\r\n".join(lines) + end + body


@asynccontextmanager
async def world_of(folder, monkeypatch, environment: Mapping[str, str] | None = None):
    """Run a collector that knows its reporter and the server `de-1`; its clocks stand still."""
    small = {"COLLECTOR_MAX_BODY_BYTES": "4096"} | dict(environment or {})
    world = World(
        path=folder / "ledger.sqlite3", environment=small, monotonic_seconds=lambda: 1000.0
    )
    world.taken = []
    take = DirectIntake.take

    def note(self, *arguments):
        is_taken = take(self, *arguments)
        world.taken.append(is_taken)
        return is_taken

    monkeypatch.setattr(DirectIntake, "take", note)
    async with running(world):
        await world.app.state.collector.rules.current()
        yield world


class Pair:
    """Two collectors that are sent the same: one serves in the protocol, one by the application."""

    def __init__(self, short: World, usual: World) -> None:
        self.short, self.usual = short, usual

    async def outcomes(
        self, requests: Sequence[bytes], prepare: Callable[[Any], None] = lambda _: None
    ) -> tuple[Outcome, Outcome]:
        """Send requests over a new connection; the sender's server is known by one before."""
        found = []
        for world in (self.short, self.usual):
            connection = world.connect(is_direct=world is self.short)
            await connection.ask(request(wire()))
            prepare(world.app.state.collector)
            for each in requests:
                await connection.ask(each)
            await asyncio.sleep(0)  # what is counted once for several requests
            found.append(await world.outcome(connection))
        return found[0], found[1]


@asynccontextmanager
async def pair_of(folder, monkeypatch, environment: Mapping[str, str] | None = None):
    (folder / "usual").mkdir()
    async with (
        world_of(folder, monkeypatch, environment) as short,
        world_of(folder / "usual", monkeypatch, environment) as usual,
    ):
        yield Pair(short, usual)


async def test_every_request_is_served_alike(tmp_path, monkeypatch):
    different = {}
    async with pair_of(tmp_path, monkeypatch) as pair:
        for case, requests in CASES.items():
            short, usual = await pair.outcomes(requests)
            if short != usual:
                different[case] = (short, usual)
    assert not different


@pytest.mark.parametrize("case", HARD)
async def test_the_bounds_of_a_sender_hold_alike(tmp_path, monkeypatch, case):
    environment, requests = HARD[case]
    async with pair_of(tmp_path, monkeypatch, environment) as pair:
        short, usual = await pair.outcomes(requests)
    assert short == usual


def _failing(error: Exception) -> Callable[[Any], None]:
    def prepare(collector: Any) -> None:
        def fail(*_: object, **__: object) -> None:
            raise error

        collector.ingest._ledger.record = fail

    return prepare


def _full_queue(collector: Any) -> None:
    def refuse(*_: object) -> None:
        raise QueueFullError("1 reports are waiting to be stored; try again in a second")

    collector.ingest._writer.enqueue = refuse


def _full_totals(collector: Any) -> None:
    def record(batches, **_):
        return [
            Receipt(len(each.reports) - 1, 0, full=(len(each.reports) - 1,)) for each in batches
        ]

    collector.ingest._ledger.record = record


FAILURES = {
    "the disk is full": _failing(DiskFullError("the disk under the ledger is full")),
    "it is not stored": _failing(NotStoredError("the ledger did not store")),
    "a defect": _failing(RuntimeError("a defect")),
    "the queue is full": _full_queue,
    "a user's total is full": _full_totals,
}


async def test_what_is_not_stored_is_answered_alike(tmp_path, monkeypatch):
    requests = [
        request(body, path=path)
        for path in (REPORTS, ORIGINAL)
        for body in (wire(), [wire(), wire()])
    ]
    different = {}
    async with pair_of(tmp_path, monkeypatch) as pair:
        for failure, prepare in FAILURES.items():
            writers = [each.app.state.collector.ingest for each in (pair.short, pair.usual)]
            kept = [(each._ledger.record, each._writer.enqueue) for each in writers]
            short, usual = await pair.outcomes(requests, prepare)
            assert pair.short.taken[-4:] == [True, True, True, False], failure
            for each, (record, enqueue) in zip(writers, kept, strict=True):
                each._ledger.record, each._writer.enqueue = record, enqueue
            if short != usual:
                different[failure] = (short, usual)
    assert not different


@pytest.fixture
async def world(tmp_path, monkeypatch):
    async with world_of(tmp_path, monkeypatch) as world:
        yield world


@pytest.fixture
async def connection(world):
    connection = world.connect()
    await connection.ask(request(wire()))
    world.taken.clear()
    return connection


async def test_plain_requests_are_taken(world, connection):
    for each in (
        request(wire()),
        request([wire(), wire("bob")]),
        request(WITH_ID, path=ORIGINAL),
        request(wire(), more={"webhook-id": "x"}),
        chunked(wire()),
    ):
        assert (await connection.ask(each)).startswith(b"HTTP/1.1 200 OK\r\n")
    assert world.taken == [True] * 5


async def test_no_task_serves_a_request_that_is_taken(world, connection):
    before = asyncio.all_tasks()
    connection.send(request(wire()))
    assert asyncio.all_tasks() == before
    assert len(await connection.answers(2)) == 2


async def test_a_request_in_any_two_parts_is_answered_alike(world, connection):
    whole = request(wire())
    first = _undated(await connection.ask(whole))
    for cut in range(1, len(whole)):
        connection.send(whole[:cut])
        answer = await connection.ask(whole[cut:])
        assert _undated(answer) == first, whole[:cut]
    assert await world.totals() == {"alice": 30 * (len(whole) + 1)}


async def test_several_requests_at_once_are_answered_in_order(world, connection):
    ids = [f"r{number}" for number in range(5)]
    several = [request(wire(), more={"traffic-collector-request": each}) for each in ids]
    connection.send(b"".join(several) + request(wire(), method="GET") + request(wire()))
    answers = await connection.answers(8)
    assert [each[9:12] for each in answers] == [b"200"] * 6 + [b"405", b"200"]
    assert [
        f"traffic-collector: 1 {each}\r\n".encode() in found
        for each, found in zip(ids, answers[1:6], strict=True)
    ] == [True] * 5
    assert await world.totals() == {"alice": 30 * 7}


async def test_more_requests_at_once_than_may_wait_are_refused_alike(tmp_path, monkeypatch):
    async with pair_of(tmp_path, monkeypatch) as pair:
        short, usual = await pair.outcomes([request(wire()) * 40])
    assert usual.is_closed
    assert short.is_closed


async def test_a_head_that_was_sent_before_is_not_parsed_again(world, connection):
    await connection.ask(request(wire()))
    connection.protocol.parser = None
    assert (await connection.ask(request(wire()))).startswith(b"HTTP/1.1 200")
    assert world.taken == [True, True]


async def test_after_a_known_head_any_other_request_is_parsed_as_ever(world, connection):
    for _ in range(3):
        await connection.ask(request(wire()))
        assert (await connection.ask(request(wire(port=1)))).startswith(b"HTTP/1.1 200")
        assert (await connection.ask(request(wire(), path="/v1/none"))).startswith(b"HTTP/1.1 404")
    assert await world.totals() == {"alice": 30 * 7}


async def test_known_heads_are_bounded_and_none_is_for_one_request(world, connection, monkeypatch):
    monkeypatch.setattr(direct, "MAX_KNOWN_HEADS", 3)
    heads = connection.protocol.heads
    for number in range(10):
        await connection.ask(request(wire(), more={"traffic-collector-request": f"a{number}"}))
        await connection.ask(request(wire(), more={"webhook-id": f"a{number}"}))
    assert not heads
    for number in range(10):
        await connection.ask(request(wire(), more={"x-other": f"a{number}"}))
        assert len(heads) <= 3


async def test_a_key_that_is_not_valid_any_more_is_refused_though_its_head_is_known(
    world, connection
):
    await connection.ask(request(wire()))
    rules = world.app.state.collector.rules
    rules._rules = rules._rules._replace(ring=type(rules._rules.ring)([], now_millis=0))
    assert (await connection.ask(request(wire()))).startswith(b"HTTP/1.1 401")


async def test_a_client_that_disconnects_is_stored_all_the_same(world, connection):
    connection.send(request(wire("gone")))
    written = connection.wire.written
    connection.wire.close()
    connection.protocol.connection_lost(None)
    async with asyncio.timeout(120):
        while "gone" not in await world.totals():
            await asyncio.sleep(0.001)
    assert connection.wire.written == written


async def test_a_server_that_stops_answers_and_closes(world, connection):
    connection.send(request(wire()))
    connection.protocol.shutdown()
    assert not connection.wire.is_closed
    answer = (await connection.answers(2))[-1]
    assert b"\r\nconnection: close\r\n" in answer
    assert connection.wire.is_closed


async def test_a_defect_is_left_to_the_application(world, connection, monkeypatch, caplog):
    def break_down(_: bytes) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(direct_intake, "decode_plain", break_down)
    assert (await connection.ask(request(wire()))).startswith(b"HTTP/1.1 200")
    assert "a defect" in caplog.text


async def test_a_defect_in_an_answer_leaves_the_others_of_its_commit_theirs(
    world, connection, caplog
):
    other = world.connect()
    commit = world.app.state.collector.ingest._writer
    connection.send(request(wire()))
    commit._submitted[-1] = commit._submitted[-1]._replace(on_stored=lambda _: 1 / 0)
    other.send(request(wire()))
    assert len(await other.answers(1)) == 1
    assert "ZeroDivisionError" in caplog.text


class TestKeepAlive:
    """The time for which a connection may be idle begins at its last answer."""

    async def test_a_timer_of_before_closes_no_connection_in_use(self, connection):
        protocol = connection.protocol
        assert protocol.timeout_keep_alive_task is not None  # of the application's answer
        await connection.ask(request(wire()))
        await connection.ask(request(wire()))
        protocol.timeout_keep_alive_handler()
        assert not connection.wire.is_closed
        assert protocol.timeout_keep_alive_task is not None

    async def test_nor_one_whose_request_is_being_answered(self, connection):
        connection.send(request(wire()))
        connection.protocol.timeout_keep_alive_handler()
        assert not connection.wire.is_closed
        await connection.answers(2)
        assert connection.protocol.timeout_keep_alive_task is not None

    async def test_an_idle_connection_is_closed(self, connection):
        await connection.ask(request(wire()))
        connection.protocol._idle_since_seconds -= 3600
        connection.protocol.timeout_keep_alive_handler()
        assert connection.wire.is_closed


async def test_a_connection_has_a_place_among_the_senders_only_while_it_sends(world, connection):
    protocol = connection.protocol
    assert protocol in protocol.senders
    for _ in range(2):  # a head that is parsed, and one that is known
        connection.send(request(wire()))
        assert protocol not in protocol.senders
        await connection.answers(1)
        async with asyncio.timeout(120):
            while protocol not in protocol.senders:
                await asyncio.sleep(0)
