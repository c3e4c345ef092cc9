"""Every call ends when it was told to, whatever is at the other end; and what went wrong is told apart."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import shutil
import socket
import ssl
import subprocess
import threading
import time

import httpx
import pytest

from collector.client import (
    AsyncClient,
    Client,
    ClientError,
    DeliveryError,
    NotDeliveredError,
    RejectedError,
    Report,
    UnauthorizedError,
)
from collector.client.sending import sender
from tests.support.collector.scripted_collector import ScriptedCollector, refusal, served
from tests.support.fixed_answers import Server, serving
from tests.support.ports import free_port

URL = "http://collector.test"
SLACK_SECONDS = 25.0
"""What a busy machine may add to a deadline; the old code took 30 s and more."""


def report(**changes):
    return Report(**{"user": "a", "server": "s", "upload_bytes": 1, "download_bytes": 1} | changes)


class Blocked:
    """An `AsyncClient` whose methods wait."""

    def __init__(self, *args, **kwargs):
        self._runner = asyncio.Runner()
        self._client = AsyncClient(*args, **kwargs)

    def __getattr__(self, name):
        method = getattr(self._client, name)
        if not inspect.iscoroutinefunction(method):
            return method
        return lambda *args, **kwargs: self._runner.run(method(*args, **kwargs))

    def end(self):
        self._runner.run(self._client.close(timeout_seconds=0))
        self._runner.close()


@pytest.fixture(params=["blocking", "asynchronous"])
def make(request):
    made = []

    def build(url=URL, **arguments):
        kind = Client if request.param == "blocking" else Blocked
        client = kind(url, **{"key": "rk_x"} | arguments)
        made.append(client)
        return client

    yield build
    for each in made:
        each.close(timeout_seconds=0) if isinstance(each, Client) else each.end()


@contextlib.contextmanager
def within(seconds):
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds + SLACK_SECONDS


@contextlib.contextmanager
def listening(serve):
    """Serve each connection by a thread until the end; yield the address."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve_one(connection):
        with contextlib.suppress(OSError), connection:
            serve(connection, over)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve_one, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def trickle(connection, over):
    """Answer a byte at a time, each long before any time limit of a single read."""
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nx-filler: ")
    while not over.wait(0.02):
        connection.sendall(b"x")


def trickle_the_body(connection, over):
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
    while not over.wait(0.02):
        connection.sendall(b" ")


def say_nothing(connection, over):
    over.wait(60)


@pytest.mark.parametrize("serve", [trickle, trickle_the_body, say_nothing])
def test_no_call_takes_longer_than_it_was_given(make, tmp_path, serve):
    """`give_up_seconds=2` took 30 s, and `close()` 60 to 135 s."""
    with listening(serve) as url:
        client = make(url, spool=tmp_path / "spool")
        one = report()
        with within(0.3), pytest.raises(NotDeliveredError) as caught:
            client.send(one, give_up_seconds=0.3)
        assert caught.value.undelivered == [one]
        assert (caught.value.kind, caught.value.is_retryable) == ("timeout", True)
        client.queue(report())
        with within(0.3):
            assert client.flush(timeout_seconds=0.3).items == 1
        with within(0.3):
            client.close(timeout_seconds=0.3)


def test_one_request_takes_no_longer_than_its_own_limit(make):
    with listening(trickle) as url:
        client = make(url, timeout_seconds=0.2)
        with within(0.6), pytest.raises(NotDeliveredError, match="does not answer in time"):
            client.send(report(), give_up_seconds=0.6)


def test_a_name_that_is_looked_up_for_long_holds_no_call_up(make, monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(60) and [])
    try:
        with within(0.3), pytest.raises(NotDeliveredError) as caught:
            make().send(report(), give_up_seconds=0.3)
        assert caught.value.kind == "timeout"
    finally:
        over.set()


def test_who_is_asked_to_come_back_after_the_deadline_says_so_at_once(make):
    collector = ScriptedCollector(lambda _: httpx.Response(503, headers={"retry-after": "3000"}))
    with served(collector) as url:
        with within(1), pytest.raises(NotDeliveredError) as caught:
            make(url).send(report(), give_up_seconds=60)
        assert (caught.value.kind, caught.value.status) == ("busy", 503)
        assert caught.value.is_retryable


def unknown_host(*_, **__):
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.fixture
def one_attempt(monkeypatch):
    """The first setback ends a call: the time it is given is for that attempt alone."""
    monkeypatch.setattr(sender.Pace, "wait_seconds", lambda *_, **__: 3600.0)


@pytest.mark.usefixtures("one_attempt")
class TestWhatWentWrong:
    def test_an_unknown_host(self, make, monkeypatch):
        monkeypatch.setattr(socket, "getaddrinfo", unknown_host)
        with pytest.raises(NotDeliveredError, match="host name has no address") as caught:
            make().send(report(), give_up_seconds=60)
        assert (caught.value.kind, caught.value.status) == ("dns", None)

    def test_nothing_that_listens(self, make):
        with pytest.raises(NotDeliveredError, match="nothing listens") as caught:
            make(f"http://127.0.0.1:{free_port()}").send(report(), give_up_seconds=60)
        assert (caught.value.kind, caught.value.is_retryable) == ("refused", True)

    def test_another_program(self, make):
        with serving(Server(200, body=b"<html>hello")) as server:
            with pytest.raises(NotDeliveredError) as caught:
                make(server.url).send(report(), give_up_seconds=60)
            assert (caught.value.kind, caught.value.status) == ("not_a_collector", 200)

    def test_a_connection_that_ends(self, make):
        with listening(lambda connection, over: connection.recv(10)) as url:
            with pytest.raises(NotDeliveredError) as caught:
                make(url).send(report(), give_up_seconds=60)
            assert caught.value.kind == "disconnected"

    def test_a_wrong_key(self, make):
        with served(ScriptedCollector(lambda _: refusal(401, "not valid"))) as url:
            with pytest.raises(UnauthorizedError) as caught:
                make(url).send(report())
            assert (caught.value.kind, caught.value.status) == ("unauthorized", 401)
            assert not caught.value.is_retryable

    def test_a_host_name_that_is_none_is_refused_where_it_is_given(self, make):
        """It ended the thread that sends, by UnicodeError, and `queue` said yes."""
        for host in ("a" * 64 + ".example.com", "a..b.example.com"):
            with pytest.raises(ClientError, match="no valid host name"):
                make(f"https://{host}")


@pytest.fixture
def tls(tmp_path):
    """A collector behind TLS, with a certificate nobody knows: its address and that certificate."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
         "-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    collector = ScriptedCollector()
    with served(collector, context) as url:
        yield url, certificate


@pytest.mark.usefixtures("one_attempt")
def test_a_certificate_nobody_vouches_for_is_told_and_a_ca_file_vouches_for_it(make, tls):
    url, certificate = tls
    with pytest.raises(NotDeliveredError, match="certificate that is not trusted") as caught:
        make(url).send(report(), give_up_seconds=60)
    assert (caught.value.kind, caught.value.is_retryable) == ("certificate", False)
    assert make(url, ca_file=certificate).send(report(), give_up_seconds=60).accepted == 1


def test_further_headers_and_a_proxy_are_used(make):
    collector = ScriptedCollector()
    with served(collector) as proxy:
        client = make("http://collector.invalid", proxy=proxy, headers={"x-tenant": "7"})
        assert client.send(report(), give_up_seconds=60).accepted == 1
    assert collector.requests[0].headers["x-tenant"] == "7"
    assert collector.requests[0].headers["host"] == "collector.invalid"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"headers": {"Authorization": "x"}}, "authorization is for the client to set"),
        ({"headers": {"x": "ü\u20ac"}}, "headers and proxy"),
        ({"proxy": "no proxy"}, "headers and proxy"),
        ({"ca_file": "/nowhere.pem"}, "ca_file: /nowhere.pem cannot be read"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
    ],
)
def test_options_that_cannot_be_right_are_refused_at_once(make, arguments, message):
    with pytest.raises(ClientError, match=message):
        make(**arguments)


def test_a_link_without_a_host_is_sent_with_that_of_the_collector(make):
    collector = ScriptedCollector()
    with served(collector) as url:
        client = make(url, key=None, subscription="/sub/YWxpY2UsMTc5NTQzMzM4NQ3PDaZWi-hR")
        client.send(report(user=None), give_up_seconds=60)
    token = collector.batches[0][0]["user_token"]
    assert token == f"{url}/sub/YWxpY2UsMTc5NTQzMzM4NQ3PDaZWi-hR"


def test_problems_are_told_once_each_to_the_callback_and_the_log(tmp_path, caplog):
    told, event = [], threading.Event()

    def on_error(error):
        told.append(error)
        event.set()
        raise RuntimeError("a callback that fails stops nothing")

    collector = ScriptedCollector(lambda _: refusal(401, "not valid"))
    caplog.set_level(logging.INFO, "collector.client")
    with (
        served(collector) as url,
        Client(url, key="rk_x", spool=tmp_path / "spool", on_error=on_error) as client,
    ):
        client.queue(report(), report(server="refused"))
        assert event.wait(30)
        event.clear()
        for _ in range(2):
            with pytest.raises(UnauthorizedError):
                client.flush()
        collector.script = lambda _: None
        assert client.flush().items == 0
        assert client.problem is None
    assert [type(each) for each in told] == [UnauthorizedError, RejectedError]
    assert told[1].rejected[0].reason == "server is refused"
    events = [each.getMessage().split(":")[0] for each in caplog.records]
    assert events.count("delivery_fails kind=unauthorized") == 1
    assert "delivery_works" in events
    assert issubclass(UnauthorizedError, ClientError)
    assert issubclass(NotDeliveredError, DeliveryError)
