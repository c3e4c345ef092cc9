"""Asking the panel whose subscription token it is: how often, and what its answers mean."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest
from prometheus_client import generate_latest

from collector.errors import IdentityUnknownError, PanelUnavailableError, TooManyLookupsError
from collector.intake.subscriptions.resolver import LOOKUP_BURST, Subscriptions
from collector.metrics import Metrics

HERE = "203.0.113.7"
TOKEN = "YWxpY2UsMTc5NTQzMzM4NQ3PDaZWi-hR"


class Panel:
    """Answers for the tokens it knows, and counts who asks."""

    def __init__(self) -> None:
        self.users = {TOKEN: "alice"}
        self.asked: list[str] = []
        self.answer: Callable[[], httpx.Response] | None = None
        self.is_answering = asyncio.Event()
        self.is_answering.set()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        await self.is_answering.wait()
        if self.answer:
            return self.answer()
        prefix, token, suffix = request.url.path.rsplit("/", 2)
        assert (prefix, suffix) == ("/base/sub", "info")
        if token not in self.users:
            return httpx.Response(404, json={"detail": "Not Found"})
        return httpx.Response(200, json={"username": self.users[token], "status": "active"})


class World:
    def __init__(self) -> None:
        self.panel = Panel()
        self.now_seconds = 1000.0
        self.metrics = Metrics()
        self.subscriptions = Subscriptions(
            {"default": "http://panel.test/base/sub"},
            monotonic_seconds=lambda: self.now_seconds,
            metrics=self.metrics,
            transport=httpx.MockTransport(self.panel),
        )


@pytest.fixture
async def world():
    world = World()
    yield world
    await world.subscriptions.close()


async def test_a_token_is_asked_about_once_and_remembered_for_minutes(world):
    assert [await world.subscriptions.resolve(TOKEN, stranger=HERE) for _ in range(5)] == [
        "alice"
    ] * 5
    world.now_seconds += 299
    assert await world.subscriptions.resolve(TOKEN, stranger=HERE) == "alice"
    assert world.panel.asked == [f"/base/sub/{TOKEN}/info"]
    world.now_seconds += 2
    del world.panel.users[TOKEN]
    with pytest.raises(IdentityUnknownError):
        await world.subscriptions.resolve(TOKEN, stranger=HERE)


async def test_an_unknown_token_is_remembered_for_seconds(world):
    for _ in range(3):
        with pytest.raises(IdentityUnknownError):
            await world.subscriptions.resolve("not-a-token-of-ours", stranger=HERE)
    assert len(world.panel.asked) == 1
    world.panel.users["not-a-token-of-ours"] = "late"
    world.now_seconds += 16
    assert await world.subscriptions.resolve("not-a-token-of-ours", stranger=HERE) == "late"


async def test_those_who_ask_for_the_same_token_at_once_share_one_answer(world):
    world.panel.is_answering.clear()
    askers = [
        asyncio.create_task(world.subscriptions.resolve(TOKEN, stranger=HERE)) for _ in range(20)
    ]
    while not world.panel.asked:
        await asyncio.sleep(0)
    askers.pop().cancel()
    world.panel.is_answering.set()
    assert await asyncio.gather(*askers) == ["alice"] * 19
    assert len(world.panel.asked) == 1


def broken_connection() -> httpx.Response:
    raise httpx.ConnectError("refused")


def slow() -> httpx.Response:
    raise httpx.ReadTimeout("slow")


@pytest.mark.parametrize(
    "answer",
    [
        broken_connection,
        slow,
        lambda: httpx.Response(500),
        lambda: httpx.Response(502, text="bad gateway"),
        lambda: httpx.Response(403, text="a proxy's page"),
        lambda: httpx.Response(302, headers={"location": "http://elsewhere.test/"}),
        lambda: httpx.Response(200, text="<html>a page</html>"),
        lambda: httpx.Response(200, json=["alice"]),
        lambda: httpx.Response(200, json={"username": 5}),
        lambda: httpx.Response(200, json={"username": ""}),
    ],
)
async def test_a_panel_that_cannot_tell_is_not_an_unknown_token_and_is_asked_again(world, answer):
    world.panel.answer = answer
    with pytest.raises(PanelUnavailableError) as raised:
        await world.subscriptions.resolve(TOKEN, stranger=HERE)
    assert TOKEN not in str(raised.value)
    world.panel.answer = None
    assert await world.subscriptions.resolve(TOKEN, stranger=HERE) == "alice"
    assert len(world.panel.asked) == 2


@pytest.mark.parametrize(("retry_after", "pause_seconds"), [("30", 30), ("86400", 60)])
async def test_a_panel_that_asks_for_a_pause_is_not_asked_meanwhile(
    world, retry_after, pause_seconds
):
    world.panel.answer = lambda: httpx.Response(429, headers={"retry-after": retry_after})
    for number in range(10):
        with pytest.raises(PanelUnavailableError):
            await world.subscriptions.resolve(f"{TOKEN}{number}", stranger=HERE)
    assert len(world.panel.asked) == 1
    world.panel.answer = None
    world.now_seconds += pause_seconds
    assert await world.subscriptions.resolve(TOKEN, stranger=HERE) == "alice"


async def test_remembered_tokens_are_good_while_the_panel_is_down(world):
    await world.subscriptions.resolve(TOKEN, stranger=HERE)
    world.panel.answer = broken_connection
    assert await world.subscriptions.resolve(TOKEN, stranger=HERE) == "alice"


async def made_up(world: World, count: int, *, addresses: int) -> int:
    """Send made-up tokens; return how many of them the panel was not asked about."""
    refused = 0
    for number in range(count):
        address = f"198.51.100.{number % addresses}"
        try:
            await world.subscriptions.resolve(f"made-up-token-{number}", stranger=address)
        except IdentityUnknownError:
            continue
        except TooManyLookupsError as error:
            refused += error.wait_seconds > 0
    return refused


async def test_strangers_cannot_make_us_flood_the_panel(world):
    refused = await made_up(world, 500, addresses=250)
    assert len(world.panel.asked) == LOOKUP_BURST
    assert refused == 500 - LOOKUP_BURST
    world.now_seconds += 1
    assert await world.subscriptions.resolve(TOKEN, stranger=HERE) == "alice"


async def test_one_address_is_slowed_down_after_ten_wrong_tokens_and_no_other_is(world):
    assert await made_up(world, 300, addresses=1) == 290
    assert len(world.panel.asked) == 10
    with pytest.raises(TooManyLookupsError):
        await world.subscriptions.resolve(TOKEN, stranger="198.51.100.0")
    assert await world.subscriptions.resolve(TOKEN, stranger=HERE) == "alice"


async def test_right_tokens_are_not_held_against_their_address(world):
    for number in range(50):
        world.panel.users[f"token-{number}"] = f"user-{number}"
        found = await world.subscriptions.resolve(f"token-{number}", stranger=HERE)
        assert found == f"user-{number}"


async def test_a_panel_that_is_down_is_not_held_against_an_address(world):
    world.panel.answer = broken_connection
    for number in range(20):
        with pytest.raises(PanelUnavailableError):
            await world.subscriptions.resolve(f"token-{number}", stranger=HERE)
    world.panel.answer = None
    assert await world.subscriptions.resolve(TOKEN, stranger=HERE) == "alice"


async def test_a_token_that_was_right_once_is_asked_about_whatever_strangers_do(world):
    await world.subscriptions.resolve(TOKEN, stranger=HERE)
    world.now_seconds += 301
    await made_up(world, 500, addresses=250)
    assert await world.subscriptions.resolve(TOKEN, stranger=HERE) == "alice"
    assert world.panel.asked[-1] == f"/base/sub/{TOKEN}/info"


async def test_senders_with_a_key_are_not_held_up_by_strangers(world):
    await made_up(world, 500, addresses=250)
    assert await world.subscriptions.resolve(TOKEN, stranger=None) == "alice"


async def test_results_are_counted_without_naming_anybody(world):
    await world.subscriptions.resolve(TOKEN, stranger=HERE)
    await world.subscriptions.resolve(TOKEN, stranger=HERE)
    text = generate_latest(world.metrics.registry).decode()
    assert 'collector_subscription_lookups_total{result="known"} 1.0' in text
    assert 'collector_subscription_lookups_total{result="remembered"} 1.0' in text
    assert "alice" not in text
    assert TOKEN not in text
