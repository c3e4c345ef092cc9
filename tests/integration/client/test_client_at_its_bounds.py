"""A client whose sender comes to its bounds: nothing is set aside, all of it arrives later."""

from __future__ import annotations

import asyncio

import httpx

from collector.client import Client, Report
from collector.client.sending.sender import Sender
from tests.support.collector.collectors import KEY, CollectorWorld, running

SMALL = {
    "COLLECTOR_KEY_REQUEST_BYTES": "1000",
    "COLLECTOR_KEY_HOUR_BYTES": "3000",
    "COLLECTOR_KEY_DAY_BYTES": "6000",
}
HOUR = 3_600_000


class InLoop(httpx.BaseTransport):
    """Has a collector in an event loop answer a client of another thread."""

    def __init__(self, world, loop):
        self._world, self._loop = world, loop

    def handle_request(self, request):
        answer = asyncio.run_coroutine_threadsafe(
            self._world.client.post(
                request.url.path, content=request.read(), headers=dict(request.headers)
            ),
            self._loop,
        ).result(30)
        headers = {n: v for n, v in answer.headers.items() if n == "retry-after"}
        return httpx.Response(answer.status_code, headers=headers, content=answer.content)


async def test_what_is_too_much_at_once_arrives_in_parts_and_later(tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(Sender, "start", lambda self: None)
    monkeypatch.setattr(
        "collector.runtime.pace.Pace.wait_seconds",
        lambda self, asked_seconds=None: waits.append(asked_seconds) or 0.001,
    )
    async with running(CollectorWorld(path=tmp_path / "l.sqlite3", environment=SMALL)) as world:
        loop = asyncio.get_running_loop()

        def send():
            client = Client(
                "http://collector.test",
                key=KEY,
                transport=InLoop(world, loop),
                spool=tmp_path / "spool",
            )
            for n in range(40):
                client.queue(
                    Report(user="alice", server=f"s{n % 3}", upload_bytes=60, download_bytes=40)
                )
            late = client.flush(timeout_seconds=5)
            world.now_millis += HOUR
            whole = client.flush(timeout_seconds=30)
            dead_letters = client.dead_letters()
            client.close()
            return late, whole, dead_letters

        late, whole, dead_letters = await asyncio.to_thread(send)
        assert (late.items, whole.items, dead_letters) == (10, 0, [])
        assert await world.totals() == {"alice": 4000}
        assert max(filter(None, waits)) == 3600
