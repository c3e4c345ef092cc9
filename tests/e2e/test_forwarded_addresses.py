"""Whose `X-Forwarded-For` real processes believe: of no proxy but those that `.env` names."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from collector.runtime.http.strangers import ADDRESS_BURST, ADDRESS_REFILL_SECONDS
from tests.support.collector.collectors import ALICE_TOKEN, wire
from tests.support.processes import BRIDGE, COLLECTOR, PANEL, Stack

GUESSES = 30


class OneProcess(Stack):
    """Collector and bridge are one process, `marzban-bridge up`."""

    def _command(self, name: str) -> list[str]:
        if name == BRIDGE:
            return ["marzban_bridge", "up"]
        return super()._command(name)


@pytest.fixture(params=["two processes", "one process"])
def stack(request, tmp_path) -> Iterator[Stack]:
    kind = OneProcess if request.param == "one process" else Stack
    stack = kind(tmp_path, [])
    yield stack
    stack.close()


def start(stack: Stack) -> None:
    own = [] if isinstance(stack, OneProcess) else [COLLECTOR]
    stack.start(PANEL, *own, BRIDGE)
    stack.until_up(PANEL, *own, BRIDGE)


def guess_passwords(stack: Stack) -> list[int]:
    def guess(number: int) -> int:
        return stack.client.post(
            f"{stack.urls[BRIDGE]}/api/admin/token",
            data={"username": "admin", "password": f"guess {number}"},
            headers={"x-forwarded-for": f"203.0.113.{number}"},
        ).status_code

    return _all_at_once(guess)


def guess_tokens(stack: Stack) -> list[int]:
    def guess(number: int) -> int:
        return httpx.post(
            f"{stack.urls[COLLECTOR]}/v1/reports",
            json=wire(ALICE_TOKEN[:-3] + f"{number:03}"),
            headers={"x-forwarded-for": f"203.0.113.{number}"},
        ).status_code

    return _all_at_once(guess)


def _all_at_once(guess: Callable[[int], int]) -> list[int]:
    with ThreadPoolExecutor(GUESSES) as pool:
        return list(pool.map(guess, range(GUESSES)))


def test_a_stranger_on_this_machine_does_not_pass_for_many(stack):
    start(stack)
    for guess in (guess_passwords, guess_tokens):
        began = time.monotonic()
        answers = guess(stack)
        refilled = (time.monotonic() - began) / ADDRESS_REFILL_SECONDS
        assert set(answers) == {401, 429}
        assert ADDRESS_BURST <= answers.count(401) <= ADDRESS_BURST + refilled + 1


def test_a_proxy_that_env_names_tells_clients_apart(stack):
    (stack.folder / ".env").write_text("FORWARDED_ALLOW_IPS=10.0.0.0/8,127.0.0.1\n")
    start(stack)
    assert guess_passwords(stack) == [401] * 30
    assert guess_tokens(stack) == [401] * 30
