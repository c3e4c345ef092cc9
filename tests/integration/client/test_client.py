"""The client library, both kinds alike: nothing lost, nothing doubled, nobody blocked."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import time
from datetime import UTC, datetime

import httpx
import pytest

from collector.client import (
    AsyncClient,
    Client,
    ClientError,
    NotDeliveredError,
    Report,
    ReportError,
    SpoolFullError,
    UnauthorizedError,
)
from collector.client.report import encode
from collector.client.sending.sender import Sender
from collector.client.spool.spool import REPORTS, Spool
from tests.support.collector.collector_process import KEY, CollectorProcess, poll
from tests.support.collector.scripted_collector import ScriptedCollector, refusal

URL = "https://collector.test/base"
SUBSCRIPTION = "https://panel.test/sub/YWxpY2UsMTc5NTQzMzM4NQ3PDaZWi-hR"


def report(user="alice", **changes):
    fields = {"user": user, "server": "de-1", "upload_bytes": 1, "download_bytes": 2}
    return Report(**fields | changes)


class Blocked:
    """An `AsyncClient` whose methods wait, so that one test speaks to both kinds."""

    def __init__(self, *args, **kwargs):
        self._runner = asyncio.Runner()
        self._client = self._runner.run(self._make(args, kwargs))

    async def _make(self, args, kwargs):
        return AsyncClient(*args, **kwargs)

    def __getattr__(self, name):
        method = getattr(self._client, name)
        if not inspect.iscoroutinefunction(method):
            return method
        return lambda *args, **kwargs: self._runner.run(method(*args, **kwargs))

    def close(self):
        self._runner.run(self._client.close(timeout_seconds=0))
        self._runner.close()


@pytest.fixture
def collector():
    return ScriptedCollector()


@pytest.fixture(params=["blocking", "asynchronous"])
def make(request, collector, monkeypatch):
    """Make clients that do not send by themselves."""
    made = []
    monkeypatch.setattr(Sender, "start", lambda self: None)
    monkeypatch.setattr(
        "collector.runtime.pace.Pace.wait_seconds", lambda self, asked_seconds: 0.001
    )

    def build(**arguments):
        arguments = {"key": KEY} | arguments
        if request.param == "blocking":
            client = Client(URL, transport=httpx.MockTransport(collector), **arguments)
            close = lambda: client.close(timeout_seconds=0)  # noqa: E731
        else:
            transport = httpx.MockTransport(collector.asynchronously)
            client = Blocked(URL, transport=transport, **arguments)
            close = client.close
        made.append(close)
        return client

    yield build
    for close in made:
        close()


def flushed_in_vain(client):
    """Flush until an answer has come that delivers nothing; a flush ends at its deadline only."""
    backlog = client.flush(timeout_seconds=0.1)
    until = time.monotonic() + 60
    while client.problem is None and time.monotonic() < until:
        backlog = client.flush(timeout_seconds=0.1)
    return backlog


def test_both_kinds_have_the_same_methods_with_the_same_arguments():
    for name, method in inspect.getmembers(Client, inspect.isfunction):
        if name.startswith("_") and name != "__init__":
            continue
        twin = inspect.signature(getattr(AsyncClient, name)).parameters
        assert {n: p.default for n, p in inspect.signature(method).parameters.items()} == {
            n: p.default for n, p in twin.items()
        }


def test_a_report_is_sent_whole_under_the_key_and_below_the_url(make, collector):
    client = make()
    moment = datetime(2026, 11, 24, tzinfo=UTC)
    receipt = client.send(report(port=443, protocol="vless", connections=3, reported_at=moment))
    assert (receipt.accepted, receipt.duplicates, receipt.rejected) == (1, 0, ())
    (request,) = collector.requests
    assert str(request.url) == f"{URL}/v1/reports"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    ((sent,),) = collector.batches
    assert sent.pop("report_id")
    assert sent == {
        "user_token": "alice", "server": "de-1", "port": 443, "protocol": "vless",
        "bytes_uploaded": 1, "bytes_downloaded": 2, "connections": 3,
        "reported_at": "2026-11-24T00:00:00.000+00:00",
    }  # fmt: skip


def test_a_subscription_is_the_only_secret_and_is_never_on_disk(make, collector, tmp_path):
    client = make(key=None, subscription=SUBSCRIPTION, spool=tmp_path / "spool")
    client.queue(report(user=None))
    assert all(SUBSCRIPTION.encode() not in each.read_bytes() for each in tmp_path.iterdir())
    assert client.flush().items == 0
    assert "authorization" not in collector.requests[0].headers
    assert collector.batches[0][0]["user_token"] == SUBSCRIPTION


def test_whose_report_it_is_is_said_once(make):
    with pytest.raises(ReportError, match=r"^user: "):
        make().send(report(user=None))
    with pytest.raises(ReportError, match=r"^user: "):
        make(key=None, subscription=SUBSCRIPTION).send(report())


def test_an_answer_that_is_lost_doubles_nothing(make, collector):
    collector.answers = ["lost", httpx.ConnectError("down"), httpx.Response(503)]
    receipt = make().send(report(), report("bob"))
    assert (receipt.accepted, receipt.duplicates) == (0, 2)
    assert len(collector.requests) == 4
    assert len(collector.taken) == 2


def test_who_gives_up_gets_back_what_is_left_under_its_ids(make, collector):
    client = make()
    collector.script = lambda _: httpx.Response(503, json={"detail": "queue full"})
    with pytest.raises(
        NotDeliveredError, match=r"2 reports were not accepted: .*queue full"
    ) as caught:
        client.send(report(), report("bob"), give_up_seconds=0.05)
    collector.script = lambda _: None
    left = caught.value.undelivered
    assert [each.user for each in left] == ["alice", "bob"]
    assert client.send(*left).accepted == 2
    assert {each["report_id"] for each in collector.batches[0]} == set(collector.taken)
    assert {each.report_id for each in left} == set(collector.taken)


def test_a_report_has_its_id_before_anything_is_sent_and_counts_once_however_it_is_sent(
    make, collector, tmp_path
):
    client = make(spool=tmp_path / "spool")
    one, other = report(), report()
    assert one.report_id != other.report_id
    assert client.send(one, other).accepted == 2
    assert client.send(one).duplicates == 1
    assert client.queue(one) == [one.report_id]
    assert client.flush().items == 0
    assert set(collector.taken) == {one.report_id, other.report_id}


async def test_what_was_cancelled_and_is_sent_again_counts_once(collector):
    """Until the id was the report's, each call to send made another: 2 counted for 1."""
    taken = asyncio.Event()

    async def take_and_never_answer(request):
        await collector.asynchronously(request)
        taken.set()
        await asyncio.Event().wait()

    one = report()
    transport = httpx.MockTransport(take_and_never_answer)
    async with asyncio.timeout(120), AsyncClient(URL, key=KEY, transport=transport) as client:
        first = asyncio.create_task(client.send(one))
        await taken.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
    transport = httpx.MockTransport(collector.asynchronously)
    async with AsyncClient(URL, key=KEY, transport=transport) as client:
        receipt = await client.send(one)
    assert (receipt.accepted, receipt.duplicates, len(collector.taken)) == (0, 1, 1)


def test_a_spooled_report_is_sent_by_whoever_opens_the_spool_next(make, collector, tmp_path):
    first = make(spool=tmp_path / "spool")
    (report_id,) = first.queue(report())
    assert make(spool=tmp_path / "spool").flush().items == 0
    assert list(collector.taken) == [report_id]
    assert "reported_at" in collector.taken[report_id], "an old report is not told as a new one"


def test_a_refused_report_is_set_aside_with_its_reason_and_blocks_no_other(
    make, collector, tmp_path
):
    client = make(spool=tmp_path / "spool")
    client.queue(report(), report("bob", server="refused"), report("carol"))
    backlog = client.flush()
    assert (backlog.items, backlog.set_aside_total) == (0, 1)
    assert {each["user_token"] for each in collector.taken.values()} == {"alice", "carol"}
    (letter,) = client.dead_letters()
    assert letter.reason == "server is refused"


def test_a_request_that_is_refused_as_a_whole_is_taken_apart_until_the_culprit_is_found(
    make, collector, tmp_path
):
    def answer(reports):
        return refusal(400) if any(r["server"] == "bad" for r in reports) else None

    collector.script = answer
    client = make(spool=tmp_path / "spool")
    client.queue(*(report(server="bad" if n == 6 else "good") for n in range(20)))
    backlog = client.flush()
    assert (backlog.items, backlog.set_aside_total) == (0, 1)
    assert len(collector.taken) == 19


@pytest.mark.parametrize("status", [200, 400, 401, 413, 422])
def test_what_a_web_server_in_between_answers_loses_nothing_and_is_told(
    make, collector, tmp_path, status
):
    page = httpx.Response(status, html="<h1>The plain HTTP request was sent to HTTPS port</h1>")
    collector.script = lambda _: page
    client = make(spool=tmp_path / "spool")
    client.queue(*(report() for _ in range(50)))
    backlog = flushed_in_vain(client)
    assert (backlog.items, backlog.set_aside_total, client.dead_letters()) == (50, 0, [])
    assert f"is not reached: something else answers {status} with text/html" in client.problem
    with pytest.raises(NotDeliveredError, match="is not reached"):
        client.send(report(), give_up_seconds=0.1)
    collector.script = lambda _: None
    assert client.flush().items == 0
    assert (len(collector.taken), client.problem) == (50, None)


def test_a_wrong_key_is_a_clear_error_and_the_spool_keeps_everything(make, collector, tmp_path):
    client = make(spool=tmp_path / "spool")
    client.queue(report())
    collector.script = lambda _: refusal(401, "not valid")
    with pytest.raises(UnauthorizedError, match=r"collector\.test") as caught:
        client.flush()
    assert KEY not in str(caught.value)
    with pytest.raises(UnauthorizedError):
        client.send(report())
    assert client.backlog().items == 1
    collector.script = lambda _: None
    assert client.flush().items == 0


def test_a_full_spool_is_an_error_and_not_a_loss(make, collector, tmp_path):
    client = make(spool=tmp_path / "spool", max_spool_bytes=2000)
    client.queue(report(), report(), report())
    with pytest.raises(SpoolFullError, match="is full"):
        client.queue(*(report() for _ in range(10)))
    held = client.backlog().items
    assert held == 3
    assert client.flush().items == 0
    assert len(collector.taken) == held


def test_a_wrong_clock_loses_nothing(make, collector, tmp_path):
    def answer(reports):
        if all("reported_at" not in each for each in reports):
            return None
        faults = [
            {"index": n, "field": "reported_at", "reason": "is more than 5 minutes in the future"}
            for n in range(len(reports))
        ]
        return httpx.Response(422, json={"detail": "no report is valid", "errors": faults})

    collector.script = answer
    client = make(spool=tmp_path / "spool")
    client.queue(report(), report("bob"))
    client.queue(report("carol", reported_at=datetime(2020, 1, 1, tzinfo=UTC)))
    assert client.flush().items == 0
    assert {each["user_token"] for each in collector.taken.values()} == {"alice", "bob"}
    assert [each.reason for each in client.dead_letters()] == [
        "reported_at is more than 5 minutes in the future"
    ]
    assert client.requeue_dead_letters() == 1
    assert client.flush().items == 0
    assert len(collector.taken) == 3


def test_what_was_queued_with_a_clock_that_showed_1970_before_a_restart_is_delivered(
    make, collector, tmp_path
):
    """It was refused as too old and set aside, for its id might be forgotten: it was never sent."""

    def answer(reports):
        old = [n for n, each in enumerate(reports) if each.get("reported_at", "2").startswith("1")]
        faults = [{"index": n, "field": "reported_at", "reason": "is older"} for n in old]
        return httpx.Response(422, json={"detail": "?", "errors": faults}) if faults else None

    collector.script = answer
    spool = Spool(tmp_path / "spool", now_millis=lambda: 5_000)
    one = report()
    spool.put(REPORTS, [(one.report_id, encode(one, report_id=one.report_id))])
    with spool.transaction() as db:
        db.execute("UPDATE item SET boot = 'an earlier one'")
    spool.close()
    client = make(spool=tmp_path / "spool")
    backlog = client.flush()
    assert (backlog.items, backlog.set_aside_total) == (0, 0)
    assert list(collector.taken) == [one.report_id]
    assert "reported_at" not in collector.taken[one.report_id]


def test_large_amounts_are_sent_in_requests_a_collector_takes(make, collector, tmp_path):
    client = make(spool=tmp_path / "spool", batch_reports=10_000)
    for _ in range(3):
        client.queue(*(report(server="ü" * 255, protocol="p" * 64) for _ in range(5000)))
    assert client.flush().items == 0
    assert len(collector.taken) == 15_000
    for request, batch in zip(collector.requests, collector.batches, strict=True):
        assert request.headers["content-encoding"] == "gzip"
        assert len(batch) <= 10_000
        assert sum(len(str(each).encode()) for each in batch) < 8 * 2**20


def test_without_a_spool_nothing_is_queued(make):
    with pytest.raises(ClientError, match="has no spool"):
        make().queue(report())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "collector.test"}, "expected a URL"),
        ({"url": "ftp://collector.test"}, "expected a URL"),
        ({"url": "https://u:secret-word@collector.test"}, "no password"),
        ({"key": None}, "either"),
        ({"subscription": SUBSCRIPTION}, "either"),
        ({"key": "with space"}, "is not valid"),
        ({"batch_reports": 10_001}, "batch_reports"),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_arguments_that_cannot_be_right_are_refused_at_once(kind, arguments, message):
    with pytest.raises(ClientError, match=message) as caught:
        kind(**{"url": URL, "key": KEY} | arguments)
    assert "secret-word" not in str(caught.value)


def test_a_thread_sends_what_is_queued_by_itself(collector, tmp_path):
    with Client(
        URL, key=KEY, spool=tmp_path / "spool", transport=httpx.MockTransport(collector)
    ) as client:
        threads = [
            threading.Thread(target=lambda: [client.queue(report()) for _ in range(20)])
            for _ in range(4)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        poll("everything is sent", lambda: client.backlog().items == 0)
    assert len(collector.taken) == 80


async def test_a_task_sends_what_is_queued_by_itself_and_says_why_it_cannot(collector, tmp_path):
    collector.answers = [refusal(401, "not valid")]
    transport = httpx.MockTransport(collector.asynchronously)
    async with (
        asyncio.timeout(120),
        AsyncClient(URL, key=KEY, spool=tmp_path / "spool", transport=transport) as client,
    ):
        await client.queue(report())
        while client.problem is None:
            await asyncio.sleep(0.001)
        assert "not valid" in client.problem
        while (await client.backlog()).items:
            await asyncio.sleep(0.01)
        assert client.problem is None
    assert len(collector.taken) == 1


def test_a_real_collector_counts_what_was_queued_while_it_was_down(tmp_path):
    process = CollectorProcess(tmp_path)
    url = f"http://127.0.0.1:{process.port}"
    try:
        with Client(url, key=KEY, spool=tmp_path / "spool") as client:
            client.queue(*(report(f"user{n}") for n in range(500)))
            poll("it notices", lambda: client.problem is not None)
            assert client.backlog().items == 500
            process.start()
            poll("everything is sent", lambda: client.backlog().items == 0)
            receipt = client.send(report(report_id="once"), report(report_id="once"))
            assert (receipt.accepted, receipt.duplicates) == (1, 1)
            stranger = Client(url, key="rk_of-nobody-at-all")
            with contextlib.closing(stranger), pytest.raises(UnauthorizedError, match="not valid"):
                stranger.send(report())
        process.terminate()
        check = process.run("check")
        assert check.returncode == 0
        assert "1503 bytes" in check.stdout
    finally:
        process.kill()


@pytest.mark.parametrize("status", [200, 422])
def test_a_collector_s_answer_to_another_request_loses_nothing_and_is_told(
    make, collector, tmp_path, status
):
    body = {"accepted": 1, "duplicates": 0, "rejected": [], "detail": "no", "errors": []}
    mixed_up = httpx.Response(status, json=body, headers={"traffic-collector": "1 another"})
    collector.script = lambda _: mixed_up
    client = make(spool=tmp_path / "spool")
    client.queue(report())
    backlog = flushed_in_vain(client)
    assert (backlog.items, backlog.set_aside_total) == (1, 0)
    assert "another request" in client.problem
