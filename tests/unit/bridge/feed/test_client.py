"""The collector's feed as the bridge asks for it: how it leaves a busy collector alone."""

from __future__ import annotations

import httpx
import pytest

from marzban_bridge.api.errors import headers_of
from marzban_bridge.errors import CollectorUnavailableError
from marzban_bridge.feed.client import CollectorFeed

PAGE = {"ledger_id": "l", "head": 0, "next": 0, "changes": []}


class Collector:
    """Answers as it is told, and counts."""

    def __init__(self) -> None:
        self.answer = httpx.Response(200, json=PAGE)
        self.asked = 0
        self.now_seconds = 1000.0
        self.feed = CollectorFeed(
            "http://collector",
            admin_key="k",
            transport=httpx.MockTransport(self._handle),
            monotonic_seconds=lambda: self.now_seconds,
        )

    def _handle(self, _: httpx.Request) -> httpx.Response:
        self.asked += 1
        return self.answer


@pytest.mark.parametrize(
    ("status", "header", "pause_seconds"),
    [
        (429, "60", 60),
        (503, "2", 2),
        (503, "86400", 300),
        (503, "Tue, 24 Nov 2099 12:00:30 GMT", 300),
    ],
)
async def test_a_busy_collector_is_not_asked_before_it_wants_to_be(status, header, pause_seconds):
    collector = Collector()
    collector.answer = httpx.Response(status, headers={"retry-after": header})
    for _ in range(3):
        with pytest.raises(CollectorUnavailableError) as caught:
            await collector.feed.read(after=0)
        assert caught.value.retry_after_seconds == pause_seconds
    assert collector.asked == 1
    assert headers_of(caught.value) == {"retry-after": str(max(5, pause_seconds))}
    collector.answer = httpx.Response(200, json=PAGE)
    collector.now_seconds += pause_seconds
    await collector.feed.read(after=0)


@pytest.mark.parametrize("headers", [{}, {"retry-after": "0"}, {"retry-after": "soon"}])
async def test_a_collector_that_asks_for_no_pause_is_asked_again_when_the_loop_wants(headers):
    collector = Collector()
    collector.answer = httpx.Response(503, headers=headers)
    for _ in range(2):
        with pytest.raises(CollectorUnavailableError):
            await collector.feed.read(after=0)
    assert collector.asked == 2
