"""A write to a panel begins only where no other bridge can lead before it is over."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time

import httpx
import pytest

from marzban_bridge.errors import NotLeadingError, PanelUnavailableError
from marzban_bridge.panels import write_guard
from marzban_bridge.panels.dialect import PanelKind
from marzban_bridge.panels.rest_panel import RestPanel
from marzban_bridge.panels.users import UserUpdate
from marzban_bridge.panels.write_guard import WriteGuard
from marzban_bridge.store.postgres import lease as lease_module
from marzban_bridge.store.postgres.lease import Lease

UPDATE = UserUpdate(username="alice", data_limit_bytes=5)


class Server:
    """A panel on loopback that notes what it was sent, and answers as told."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.received = []
        self.answers = True
        self.on_head = lambda: None
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def writes(self):
        return [each for each in self.received if not each.startswith(b"GET")]

    def _serve(self):
        while True:
            try:
                line, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(line,), daemon=True).start()

    def _answer(self, line):
        with line, contextlib.suppress(OSError):
            while data := line.recv(65536):
                self.received.append(data)
                is_whole = b"content-length" not in data.lower() or b"length: 0" in data.lower()
                if self.answers and (is_whole or not data.endswith(b"\r\n\r\n")):
                    body = b'{"access_token": "t"}'
                    line.sendall(
                        b"HTTP/1.1 %s OK\r\ncontent-type: application/json\r\n"
                        b"content-length: %d\r\n\r\n%s" % (b"200", len(body), body)
                    )

    def close(self):
        self.listener.close()


@pytest.fixture
def server():
    opened = Server()
    yield opened
    opened.close()


def held(seconds):
    """Return a lease that is held for so long."""
    lease = Lease(seconds)
    lease.token = "mine"
    lease.moved(lease_module.seconds_now(), (0, ""))
    return lease


def panel(server, guard, *, timeout_seconds=5):
    opened = RestPanel(
        server.url,
        kind=PanelKind.MARZBAN,
        username="root",
        password="p",
        guard=guard,
        timeout_seconds=timeout_seconds,
    )
    opened._session._token = "t"
    return opened


async def reset(server, guard, **options):
    opened = panel(server, guard, **options)
    try:
        await opened.reset_user("alice")
    finally:
        await opened.close()


async def test_a_write_goes_out_while_the_lease_outlasts_it_and_says_whose_it_is(server):
    lease = held(10)
    lease.epoch = 12
    await reset(server, WriteGuard(lease))
    (write,) = server.writes()
    assert f"{lease.holder}; epoch 12)".encode() in write


@pytest.mark.parametrize("seconds", [0, 6.9])
async def test_a_write_that_may_outlast_the_lease_is_not_begun(server, seconds):
    with pytest.raises(NotLeadingError, match="was not begun"):
        await reset(server, WriteGuard(held(seconds)))
    assert server.received == []


async def test_reading_and_signing_in_need_no_lease(server):
    opened = panel(server, WriteGuard(held(0)))
    opened._session._token = None
    await opened._call("GET", "/api/admin")
    await opened.close()
    assert any(each.startswith(b"POST /api/admin/token") for each in server.received)
    assert any(each.startswith(b"GET /api/admin") for each in server.received)


async def test_a_process_that_was_frozen_before_it_sent_does_not_send(server, monkeypatch):
    """Between the first look and the sending of the head, then of the body."""
    for frozen_at in ("send_request_headers.started", "send_request_body.started"):
        lease = held(10)
        frozen_seconds = [0.0]
        monkeypatch.setattr(
            write_guard,
            "seconds_now",
            lambda: lease_module.seconds_now() + frozen_seconds[0],  # noqa: B023
        )
        guard = WriteGuard(lease)
        one_try = guard.one_try

        def freezing(one_try=one_try, frozen_at=frozen_at, frozen=frozen_seconds):
            class Freezing:
                async def __aenter__(self):
                    self.context = one_try()
                    extensions = await self.context.__aenter__()
                    look_again = extensions["trace"]

                    async def trace(event, info):
                        if event.endswith(frozen_at):
                            frozen[0] = 20
                        await look_again(event, info)

                    return {"trace": trace}

                async def __aexit__(self, *error):
                    return await self.context.__aexit__(*error)

            return Freezing()

        guard.one_try = freezing
        opened = panel(server, guard)
        with pytest.raises(NotLeadingError):
            await opened.update_user(UPDATE)
        await opened.close()
        assert not any(b"data_limit" in each for each in server.received)
        monkeypatch.undo()


async def test_a_try_is_over_after_its_time_and_a_lease_is_given_back_no_sooner(server):
    server.answers = False
    guard = WriteGuard(held(10), try_seconds=0.3)
    assert guard.open_seconds == 0
    started_at = time.monotonic()
    with pytest.raises(PanelUnavailableError, match=r"no answer for 0\.3 s"):
        await reset(server, guard, timeout_seconds=60)
    assert time.monotonic() - started_at < 50  # not the 60 s of a request that only reads
    guard, sent = WriteGuard(held(100), try_seconds=60), len(server.writes())
    task = asyncio.create_task(reset(server, guard))
    while len(server.writes()) == sent:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 20 < guard.open_seconds <= 60


async def test_each_try_of_a_write_that_is_sent_again_needs_the_lease(server, monkeypatch):
    lease = held(10)
    opened = panel(server, WriteGuard(lease))
    tries = []

    async def lost(method, path, **arguments):
        tries.append(path)
        lease.lose()
        raise httpx.ReadError("the line broke")

    monkeypatch.setattr(opened._client, "request", lost)
    with pytest.raises(NotLeadingError):
        await opened.update_user(UPDATE)
    await opened.close()
    assert len(tries) == 1


async def test_draining_waits_for_writes_under_way_and_lets_none_begin(server):
    server.answers = False
    guard = WriteGuard(held(10), try_seconds=2)
    under_way = asyncio.create_task(reset(server, guard))
    while not server.writes() and not under_way.done():
        await asyncio.sleep(0.01)
    draining = asyncio.create_task(guard.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    late = asyncio.create_task(reset(server, guard))
    await asyncio.wait([under_way])
    await draining
    assert isinstance(under_way.exception(), PanelUnavailableError)
    late.cancel()
    await asyncio.wait([late])
    assert len(server.writes()) == 1
