"""Real processes among strangers who send slowly, hugely, nothing, or garbage.

Meanwhile a well-behaved sender is answered, memory stays below a bound, and afterwards every file
descriptor is given back.
"""

from __future__ import annotations

import contextlib
import gzip
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from collector.runtime.http.limits import MAX_HEAD_BYTES
from tests.support import raw_requests
from tests.support.processes import (
    BRIDGE,
    COLLECTOR,
    DEADLINE_SECONDS,
    PANEL,
    REPORTER_KEY,
    Stack,
    until,
)

READ_SECONDS = 2
PEAK_BYTES = 320 * 2**20
"""Of a process that takes about 90 MiB at rest; bodies in memory are bounded at 32 MiB."""
ANSWERED_WITHIN_SECONDS = 20.0
SLOW = 250
IDLE = 10_000
SPARE_FILES = 500
OWN_FILES = 128
HUGE_BYTES = 100 * 2**20
MIB = b"\0" * 2**20


@dataclass(frozen=True)
class Target:
    """A program, how it is rightly used, and where strangers may post."""

    name: str
    good: tuple[str, dict[str, str], bytes]
    open_path: str
    most_connections: int

    def process_id(self, stack: Stack) -> int:
        return stack._processes[self.name].pid


REPORT = (
    b'{"user_token": "alice", "server": "s", "port": 1, "protocol": "p", '
    b'"bytes_uploaded": 1, "bytes_downloaded": 2}'
)
TARGETS = {
    COLLECTOR: Target(
        COLLECTOR,
        ("/v1/reports", {"authorization": f"Bearer {REPORTER_KEY}"}, REPORT),
        "/v1/reports",
        4096,
    ),
    BRIDGE: Target(
        BRIDGE,
        ("/webhooks/marzban", {"x-webhook-secret": "a-webhook-secret"}, b"[]"),
        "/api/admin/token",
        1024,
    ),
}


class Place:
    """One program under attack."""

    def __init__(self, stack: Stack, target: Target) -> None:
        self.stack, self.target = stack, target
        self.address = ("127.0.0.1", int(stack.urls[target.name].rsplit(":", 1)[1]))
        self._process = Path(f"/proc/{target.process_id(stack)}")

    def connect(self) -> socket.socket:
        return raw_requests.connect(self.address)

    def files(self) -> int:
        return sum(1 for _ in (self._process / "fd").iterdir())

    def peak_bytes(self) -> int:
        status = (self._process / "status").read_text().splitlines()
        (line,) = (line for line in status if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    def head(self, framing: str, more: str = "") -> bytes:
        return (
            f"POST {self.target.open_path} HTTP/1.1\r\nHost: x\r\n{framing}\r\n{more}\r\n".encode()
        )

    @contextlib.contextmanager
    def a_good_sender(self) -> Iterator[list[float]]:
        """Send as one should for as long as the context lasts; each must be answered in time."""
        path, headers, body = self.target.good
        seconds: list[float] = []
        faults: list[object] = []
        stop = threading.Event()

        def send() -> None:
            url = self.stack.urls[self.target.name] + path
            with httpx.Client(timeout=60, headers={"connection": "close"}) as client:
                while not stop.is_set():
                    started_at = time.monotonic()
                    try:
                        answer = client.post(url, headers=headers, content=body)
                        if answer.status_code != 200:
                            faults.append(answer.text)
                    except httpx.HTTPError as error:
                        faults.append(error)
                    seconds.append(time.monotonic() - started_at)
                    stop.wait(0.05)

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield seconds
            until("a few good requests", lambda: len(seconds) >= 3)
        finally:
            stop.set()
            thread.join()
        assert faults == []
        assert max(seconds) < ANSWERED_WITHIN_SECONDS

    @contextlib.contextmanager
    def attacked(self) -> Iterator[None]:
        """Let a test attack; hold the process to its bounds meanwhile and afterwards."""
        files = self.files()
        with self.a_good_sender():
            yield
        assert self.peak_bytes() < PEAK_BYTES
        until("files given back", lambda: self.files() <= files + 5)
        assert "Traceback" not in self.stack.log_of(self.target.name)


@pytest.fixture(scope="module")
def many_files() -> Iterator[int]:
    """As many open files as we may have; the programs see to themselves."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = min(before[1], 1_000_000) if before[1] != resource.RLIM_INFINITY else 1_000_000
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, before[1]))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, many_files: int) -> Iterator[Stack]:
    environment = {
        "COLLECTOR_READ_SECONDS": str(READ_SECONDS),
        "BRIDGE_READ_SECONDS": str(READ_SECONDS),
        "BRIDGE_PASS_SECONDS": "30",
    }
    stack = Stack(tmp_path_factory.mktemp("stack"), [], environment)
    stack.start(PANEL, COLLECTOR, BRIDGE)
    stack.until_up(PANEL, COLLECTOR, BRIDGE)
    yield stack
    stack.close()


@pytest.fixture(params=TARGETS)
def place(request: pytest.FixtureRequest, stack: Stack) -> Place:
    return Place(stack, TARGETS[request.param])


def trickle(connections: list[socket.socket]) -> None:
    """Send a byte on each now and then until all are closed by the other side."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while connections := [each for each in connections if not raw_requests.is_ended(each)]:
        assert time.monotonic() < deadline, f"{len(connections)} slow connections are kept"
        for each in connections:
            with contextlib.suppress(OSError):
                each.send(b"x")
        time.sleep(0.5)


def test_who_sends_a_byte_now_and_then_is_sent_away(place):
    with contextlib.ExitStack() as opened, place.attacked():
        slow = [opened.enter_context(place.connect()) for _ in range(2 * SLOW)]
        for each in slow[:SLOW]:
            raw_requests.send(each, b"GET /healthz HTTP/1.1\r\nX-Slow: ")
        for each in slow[SLOW:]:
            raw_requests.send(each, place.head("Content-Length: 1000"))
        trickle(slow)


def test_a_late_body_is_answered_as_one(place):
    with place.connect() as connection:
        connection.sendall(place.head("Content-Length: 1000"))
        answer = raw_requests.read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer.lower()
    assert b"too long to arrive" in answer


def plain(connection: socket.socket) -> None:
    for _ in range(HUGE_BYTES // len(MIB)):
        if not raw_requests.send(connection, MIB):
            return


def chunked(connection: socket.socket) -> None:
    for _ in range(HUGE_BYTES // len(MIB)):
        if not raw_requests.send(connection, b"%x\r\n%b\r\n" % (len(MIB), MIB)):
            return
    raw_requests.send(connection, b"0\r\n\r\n")


def bomb(connection: socket.socket) -> None:
    raw_requests.send(connection, BOMB)


BOMB = gzip.compress(MIB * 100, compresslevel=9)


@pytest.mark.parametrize(
    ("framing", "send"),
    [
        (f"Content-Length: {HUGE_BYTES}", plain),
        ("Transfer-Encoding: chunked", chunked),
        (f"Content-Encoding: gzip\r\nContent-Length: {HUGE_BYTES}", plain),
        (f"Content-Encoding: gzip\r\nContent-Length: {len(BOMB)}", bomb),
    ],
    ids=["plain", "chunked", "gzip", "bomb"],
)
def test_a_hundred_megabytes_are_refused_and_not_kept(
    place, framing: str, send: Callable[[socket.socket], None]
):
    with place.attacked():
        for authorization in ("", f"Authorization: Bearer {REPORTER_KEY}\r\n"):
            with place.connect() as connection:
                connection.sendall(place.head(framing, authorization))
                send(connection)
                status = raw_requests.read_first(connection)[9:12]
                assert status in {b"413", b"401", b"400"}


def test_bodies_that_never_end_share_little_room_and_take_none_from_those_with_a_key(place):
    with contextlib.ExitStack() as opened, place.attacked():
        held = [opened.enter_context(place.connect()) for _ in range(60)]
        for each in held:
            each.settimeout(0.5)
            with contextlib.suppress(TimeoutError):  # answered already, and not read any more
                raw_requests.send(each, place.head("Content-Length: 8000000") + b" " * 7_900_000)
        until("all are sent away", lambda: all(raw_requests.is_ended(each) for each in held))


def test_thousands_who_say_nothing_make_room_for_those_who_speak(place, many_files):
    most = place.target.most_connections
    with contextlib.ExitStack() as opened, place.attacked():
        idle = []
        for number in range(min(IDLE, many_files - SPARE_FILES)):
            idle.append(opened.enter_context(place.connect()))
            if number % 500 == 0:
                assert place.files() < most + OWN_FILES
        until("all are sent away", lambda: all(raw_requests.is_ended(each) for each in idle[::100]))


def test_a_head_without_end_is_refused_by_its_length(place):
    with place.connect() as connection:
        raw_requests.send(connection, b"GET / HTTP/1.1\r\nX: " + b"a" * (MAX_HEAD_BYTES + 1))
        answer = raw_requests.read_all(connection)
    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 8000,
        b"GET / HTTP/1.1\r\nX: " + b"a" * 3_000_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200_000,
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        + b"X: y\r\n" * 200_000,
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n\r\n",
        bytes(range(256)) * 4000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /",
    ],
    ids=["pipelined", "long", "headers", "trailers", "url", "binary", "http2", "smuggled"],
)
def test_garbage_ends_its_own_connection_alone(place, garbage):
    with contextlib.ExitStack() as opened, place.attacked():
        connections = [opened.enter_context(place.connect()) for _ in range(10)]
        for each in connections:
            each.settimeout(1)
            with contextlib.suppress(TimeoutError):
                raw_requests.send(each, garbage)
        until("all are sent away", lambda: all(raw_requests.is_ended(each) for each in connections))


def test_who_goes_away_in_the_middle_leaves_no_traceback(place):
    with place.attacked():
        for _ in range(20):
            with place.connect() as connection:
                connection.sendall(place.head("Content-Length: 1000") + b"{")
