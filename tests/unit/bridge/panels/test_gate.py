"""How a panel that is away is left alone, whoever asks."""

from __future__ import annotations

import asyncio

import pytest

from marzban_bridge.errors import PanelBusyError, PanelFailingError, PanelUnavailableError
from marzban_bridge.panels.http.gate import PanelGate


class Panel:
    """What a gate lets through arrives here, and is answered when `answer` is called."""

    def __init__(self) -> None:
        self.now_seconds = 1000.0
        self.gate = PanelGate(monotonic_seconds=lambda: self.now_seconds)
        self.waiting: list[asyncio.Future[None]] = []
        self.arrived = 0

    async def ask(self, *, is_own: bool = True) -> None:
        async with self.gate.passing(is_own=is_own):
            self.arrived += 1
            self.waiting.append(asyncio.get_running_loop().create_future())
            await self.waiting[-1]

    def start(self, times: int = 1, **arguments: bool) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self.ask(**arguments)) for _ in range(times)]

    async def answer(self, error: Exception | None = None) -> None:
        for each in filter(lambda it: not it.done(), self.waiting):
            each.set_exception(error) if error else each.set_result(None)
        self.waiting.clear()
        await settled()

    async def go_away(self, *, asks_seconds: float | None = None, is_own: bool = True) -> None:
        (asking,) = self.start(is_own=is_own)
        await settled()
        await self.answer(PanelUnavailableError("503", retry_after_seconds=asks_seconds))
        with pytest.raises(PanelUnavailableError):
            await asking


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def panel():
    return Panel()


async def test_all_pass_at_once_while_the_panel_answers(panel):
    asking = panel.start(5)
    await settled()
    assert panel.arrived == 5
    await panel.answer()
    await asyncio.gather(*asking)


async def test_one_is_tried_at_a_time_while_the_panel_is_away_and_the_others_share_its_failure(
    panel,
):
    await panel.go_away()
    asking = panel.start(10)
    await settled()
    assert panel.arrived == 2
    await panel.answer(PanelUnavailableError("still 503", retry_after_seconds=7))
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert {(str(each), each.retry_after_seconds) for each in results} == {("still 503", 7)}
    assert panel.arrived == 2


async def test_those_who_waited_pass_when_the_panel_is_back(panel):
    await panel.go_away()
    asking = panel.start(10)
    await settled()
    await panel.answer()
    assert panel.arrived == 11
    await panel.answer()
    await asyncio.gather(*asking)


async def test_a_pause_that_the_panel_asks_for_is_kept_to_the_second(panel):
    await panel.go_away(asks_seconds=60)
    panel.now_seconds += 59
    for _ in range(3):
        with pytest.raises(PanelUnavailableError, match="503; it asks to be left alone") as caught:
            await panel.ask()
    assert caught.value.retry_after_seconds == 1
    assert panel.arrived == 1
    panel.now_seconds += 1
    (asking,) = panel.start()
    await settled()
    await panel.answer()
    await asking


async def test_a_strangers_pause_is_the_strangers_alone(panel):
    await panel.go_away(asks_seconds=60, is_own=False)
    (asking,) = panel.start()
    await settled()
    await panel.answer()
    await asking


async def test_strangers_hold_up_each_other_and_never_the_bridge(panel):
    await panel.go_away(is_own=False)
    strangers = panel.start(5, is_own=False)
    await settled()
    assert panel.arrived == 2, "one of them is tried at a time"
    own = panel.start(3)
    await settled()
    assert panel.arrived == 5, "the bridge's own wait for none of them"
    await panel.answer(PanelUnavailableError("503"))
    results = await asyncio.gather(*strangers, *own, return_exceptions=True)
    assert {str(each) for each in results} == {"503"}
    strangers, own = panel.start(5, is_own=False), panel.start(5)
    await settled()
    assert panel.arrived == 7, "one of either"
    await panel.answer()
    await settled()
    await panel.answer()
    await asyncio.gather(*strangers, *own)


async def test_a_429_to_a_stranger_keeps_nobody_from_asking(panel):
    (asking,) = panel.start(is_own=False)
    await settled()
    await panel.answer(PanelBusyError("429", retry_after_seconds=60))
    with pytest.raises(PanelBusyError):
        await asking
    asking = [*panel.start(3), *panel.start(3, is_own=False)]
    await settled()
    assert panel.arrived == 7
    await panel.answer()
    await asyncio.gather(*asking)


async def test_a_500_says_that_the_panel_is_there(panel):
    await panel.go_away()
    (asking,) = panel.start()
    await settled()
    await panel.answer(PanelFailingError("500"))
    with pytest.raises(PanelFailingError):
        await asking
    asking = panel.start(3)
    await settled()
    assert panel.arrived == 5
    await panel.answer()
    await asyncio.gather(*asking)


async def test_one_that_gives_up_lets_the_next_try(panel):
    await panel.go_away()
    first, second = panel.start(2)
    await settled()
    first.cancel()
    await settled()
    assert panel.arrived == 3
    await panel.answer()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.gather(first, second)
