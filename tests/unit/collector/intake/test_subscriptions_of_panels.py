"""Asking several panels which user a subscription token belongs to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from prometheus_client import generate_latest

from collector.errors import (
    CollectorError,
    IdentityUnknownError,
    PanelUnavailableError,
    TokenUndecidedError,
    TooManyLookupsError,
)
from collector.intake.subscriptions import asking, panel
from collector.intake.subscriptions.resolver import Subscriptions
from collector.metrics import Metrics
from collector.reports.identity import FIRST_PANEL, PANEL_NAME
from marzban_bridge.panels import names

HERE = "203.0.113.7"
ALICE = "YWxpY2UsMTc5NTQzMzM4NQ3PDaZWi-hR"
CAROL = "djMsMywxNzk1ODU0NzE1.Rr3Obj3RHspUT7vDkQjLA4LctFensNi5vIrFer0SCkM"


class Panel:
    """Answers for the tokens it knows; away, it refuses connections."""

    def __init__(self, users: dict[str, str]) -> None:
        self.users = users
        self.asked: list[str] = []
        self.answer: Callable[[], httpx.Response] | None = None
        self.is_away = False
        self.is_answering = asyncio.Event()
        self.is_answering.set()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        path, token, info = request.url.path.rsplit("/", 2)
        assert (path, info) in {("/sub", "info"), ("/my/own", "info")}
        self.asked.append(token)
        await self.is_answering.wait()
        if self.is_away:
            raise httpx.ConnectError("refused")
        if self.answer:
            return self.answer()
        if token not in self.users:
            return httpx.Response(404, json={"detail": "Not Found"})
        return httpx.Response(200, json={"username": self.users[token], "status": "active"})


class World:
    def __init__(self) -> None:
        self.first = Panel({ALICE: "alice"})
        self.two = Panel({CAROL: "carol"})
        self.now_seconds = 1000.0
        self.metrics = Metrics()
        self.subscriptions = Subscriptions(
            {"default": "http://default.test/sub", "two": "http://two.test/my/own"},
            monotonic_seconds=lambda: self.now_seconds,
            metrics=self.metrics,
            transport=httpx.MockTransport(self._answer),
        )

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        return await {"default.test": self.first, "two.test": self.two}[request.url.host](request)

    async def resolve(self, token: str, *, stranger: str | None = HERE) -> str:
        return await self.subscriptions.resolve(token, stranger=stranger)

    async def fails(self, token: str, *, stranger: str = HERE) -> type[Exception]:
        """Return the kind of error of a token that is not resolved."""
        with pytest.raises(CollectorError) as raised:
            await self.resolve(token, stranger=stranger)
        assert token not in str(raised.value)
        return raised.type


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.subscriptions.close()


async def test_a_user_is_of_the_panel_that_knows_its_token(world):
    assert await world.resolve(ALICE) == "alice"
    assert await world.resolve(CAROL) == "two/carol"
    assert await world.resolve(CAROL, stranger=None) == "two/carol"
    assert world.first.asked == world.two.asked == [ALICE, CAROL]


async def test_panels_are_called_as_the_bridge_calls_them():
    assert FIRST_PANEL == names.FIRST_PANEL
    assert PANEL_NAME.pattern == names.PANEL_NAME.pattern


async def test_what_no_panel_knows_is_unknown_and_asked_of_each_once_in_seconds(world):
    for _ in range(3):
        assert await world.fails("made-up-token-1") is IdentityUnknownError
    assert len(world.first.asked) == len(world.two.asked) == 1
    world.now_seconds += 16
    world.two.users["made-up-token-1"] = "late"
    assert await world.resolve("made-up-token-1") == "two/late"


async def test_a_panel_that_is_away_keeps_no_other_panels_users_from_reporting(world):
    world.first.is_away = True
    assert await world.resolve(CAROL) == "two/carol"
    assert await world.fails(ALICE) is TokenUndecidedError
    world.first.is_away = False
    assert await world.resolve(ALICE) == "alice"
    world.two.is_away = True
    world.first.users["another-token-1"] = "bob"
    assert await world.resolve("another-token-1") == "bob"


async def test_while_a_panel_is_away_no_token_is_unknown_and_the_answer_names_the_panel(world):
    world.two.is_away = True
    with pytest.raises(PanelUnavailableError, match="panel two cannot be asked now"):
        await world.resolve(CAROL)
    world.two.is_away = False
    assert await world.resolve(CAROL) == "two/carol"


async def test_those_who_wait_for_a_panel_that_is_away_are_asked_of_it_alone(world):
    world.two.is_away = True
    for _ in range(5):
        assert await world.fails(CAROL) is TokenUndecidedError
        world.now_seconds += 20
    assert (len(world.first.asked), len(world.two.asked)) == (1, 5)
    world.two.is_away = False
    world.two.users.clear()
    for _ in range(3):
        assert await world.fails(CAROL) is IdentityUnknownError
    assert (len(world.first.asked), len(world.two.asked)) == (1, 6)


async def test_with_all_panels_away_nothing_is_known_of_a_token(world):
    world.first.is_away = world.two.is_away = True
    assert await world.fails(CAROL) is PanelUnavailableError
    world.first.is_away = world.two.is_away = False
    assert await world.resolve(CAROL) == "two/carol"


async def test_a_panel_that_hangs_holds_up_others_for_a_moment_and_once_it_failed_not_at_all(
    world, monkeypatch
):
    monkeypatch.setattr(asking, "EARLIER_PANELS_SECONDS", 0.01)
    world.first.is_answering.clear()
    assert await world.resolve(CAROL) == "two/carol"
    world.first.is_answering.set()
    world.first.is_away = True
    assert await world.fails(ALICE) is TokenUndecidedError
    monkeypatch.setattr(asking, "EARLIER_PANELS_SECONDS", 3600)
    monkeypatch.setattr(panel, "LONGEST_SECONDS", 3600)
    world.first.is_answering.clear()
    world.two.users["another-token-1"] = "bob"
    async with asyncio.timeout(120):
        assert await world.resolve("another-token-1") == "two/bob"


async def test_what_several_panels_know_is_of_the_first_also_when_it_is_slower(world):
    world.two.users[ALICE] = "alice"
    world.first.is_answering.clear()
    asker = asyncio.create_task(world.resolve(ALICE))
    while not world.two.asked:
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert not asker.done()
    world.first.is_answering.set()
    assert await asker == "alice"


async def test_a_user_keeps_its_name_while_its_panel_is_away_and_another_has_a_copy(world):
    assert await world.resolve(ALICE) == "alice"
    world.two.users[ALICE] = "alice"
    world.now_seconds += 301
    world.first.is_away = True
    assert await world.fails(ALICE) is PanelUnavailableError
    assert world.two.asked == [ALICE]
    world.first.is_away = False
    assert await world.resolve(ALICE) == "alice"


async def test_what_its_panel_knows_no_more_is_asked_of_the_others(world):
    assert await world.resolve(CAROL) == "two/carol"
    world.now_seconds += 301
    world.first.users[CAROL] = world.two.users.pop(CAROL)
    assert await world.resolve(CAROL) == "carol"
    world.now_seconds += 301
    world.first.users.clear()
    assert await world.fails(CAROL) is IdentityUnknownError


async def test_revoked_while_another_panel_is_away_it_is_right_no_more_and_not_refused_yet(world):
    assert await world.resolve(CAROL) == "two/carol"
    world.now_seconds += 301
    world.two.users.clear()
    world.first.is_away = True
    for _ in range(2):
        assert await world.fails(CAROL) is TokenUndecidedError
    assert world.two.asked == [CAROL, CAROL]
    world.first.is_away = False
    assert await world.fails(CAROL) is IdentityUnknownError


async def test_made_up_tokens_are_held_against_their_address_also_while_a_panel_is_away(world):
    world.two.is_away = True
    outcomes = []
    for number in range(90):
        outcomes.append(await world.fails(f"made-up-token-{number}"))
        world.now_seconds += 0.06
    assert outcomes[:70] == [TokenUndecidedError] * 70
    assert outcomes[-10:] == [TooManyLookupsError] * 10
    assert await world.resolve(ALICE, stranger="203.0.113.8") == "alice"


async def test_who_waits_for_a_panel_that_is_away_has_no_wrong_tokens_forgiven(world):
    world.two.is_away = True
    assert await world.fails(CAROL) is TokenUndecidedError
    world.two.is_away = False
    for number in range(10):
        assert await world.fails(f"made-up-token-{number}") is IdentityUnknownError
    world.two.is_away = True
    for _ in range(5):
        assert await world.fails(CAROL) is TokenUndecidedError
    assert await world.fails("made-up-token-10") is TooManyLookupsError


async def test_users_of_a_panel_that_is_away_leave_the_others_their_questions(world):
    """Their apps try again all day: what each of them asks anew is not from what all share."""
    world.two.is_away = True
    waiting = [f"token-of-two-{number}" for number in range(80)]
    for _ in range(4):
        for number, token in enumerate(waiting):
            await world.fails(token, stranger=f"198.51.100.{number}")
    assert await world.resolve(ALICE) == "alice"
    asked = len(world.two.asked)
    assert 80 < asked <= 80 + 100 + 1, "and the panel is not flooded by those who come again"


async def test_a_pause_that_one_panel_asks_for_is_no_pause_of_another(world):
    world.two.answer = lambda: httpx.Response(429, headers={"retry-after": "30"})
    assert await world.fails(CAROL) is TokenUndecidedError
    for _ in range(3):
        assert await world.fails(CAROL) is PanelUnavailableError
    assert await world.resolve(ALICE) == "alice"
    assert world.two.asked == [CAROL]
    world.two.answer = None
    world.now_seconds += 30
    assert await world.resolve(CAROL) == "two/carol"


@pytest.mark.parametrize("username", ["two/carol", "default/alice", "/", "a/b"])
async def test_no_panel_speaks_for_another_panels_users(world, username):
    world.first.users[ALICE] = username
    assert await world.fails(ALICE) is TokenUndecidedError


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b" " * 65536


async def test_an_answer_without_end_is_none(world):
    world.first.answer = lambda: httpx.Response(200, content=endless())
    assert await world.fails(ALICE) is TokenUndecidedError
    assert await world.resolve(CAROL) == "two/carol"


async def dripping() -> AsyncIterator[bytes]:
    yield b" "
    await asyncio.Event().wait()


async def test_an_answer_that_takes_too_long_is_none(world, monkeypatch):
    monkeypatch.setattr(panel, "LONGEST_SECONDS", 0.01)
    world.first.answer = lambda: httpx.Response(200, content=dripping())
    assert await world.fails(ALICE) is TokenUndecidedError


async def test_a_panel_that_is_away_is_logged_once_and_shown_until_it_answers(world, caplog):
    caplog.set_level(logging.INFO, logger="collector")
    assert world.subscriptions.problems == []
    world.two.is_away = True
    for _ in range(3):
        await world.fails(CAROL)
    (problem,) = world.subscriptions.problems
    assert problem.startswith("panel two cannot be asked about subscription tokens")
    assert "ConnectError" in problem
    world.two.is_away = False
    await world.resolve(CAROL)
    assert world.subscriptions.problems == []
    assert [each.getMessage().partition(":")[0] for each in caplog.records] == [
        "panel two cannot be asked about subscription tokens",
        "panel two answers about subscription tokens again",
    ]


async def test_a_panel_that_does_not_know_a_token_answers(world):
    world.two.is_away = True
    await world.fails(CAROL)
    world.two.is_away = False
    world.two.users.clear()
    await world.fails(CAROL)
    assert world.subscriptions.problems == []


async def test_a_failure_of_long_ago_is_not_shown(world):
    world.two.is_away = True
    await world.fails(CAROL)
    world.now_seconds += 599
    assert world.subscriptions.problems
    world.now_seconds += 2
    assert world.subscriptions.problems == []


@pytest.mark.parametrize(
    ("away", "setting"),
    [("first", "COLLECTOR_SUBSCRIPTION_PATH"), ("two", "two= in COLLECTOR_SUBSCRIPTION_URLS")],
)
async def test_another_program_is_told_with_the_setting_that_names_it(world, away, setting):
    getattr(world, away).answer = lambda: httpx.Response(200, text="<html>a page</html>")
    with pytest.raises(PanelUnavailableError, match=setting):
        await world.resolve(ALICE if away == "first" else CAROL)


async def test_answers_are_counted_by_panel_without_naming_users(world):
    world.two.is_away = True
    await world.resolve(ALICE)
    await world.fails(CAROL)
    text = generate_latest(world.metrics.registry).decode()
    for panel_name, result in [
        ("default", "known"),
        ("default", "unknown"),
        ("two", "unavailable"),
    ]:
        line = (
            f'collector_subscription_panel_answers_total{{panel="{panel_name}",result="{result}"}}'
        )
        assert line in text
    assert 'collector_subscription_lookups_total{result="unavailable"} 1.0' in text
    assert not any(secret in text for secret in ("alice", ALICE, CAROL))
