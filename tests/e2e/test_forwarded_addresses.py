"""Whose `X-Forwarded-For` real processes believe: of no proxy but those that `.env` names."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

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
    return [
        stack.client.post(
            f"{stack.urls[BRIDGE]}/api/admin/token",
            data={"username": "admin", "password": f"guess {number}"},
            headers={"x-forwarded-for": f"203.0.113.{number}"},
        ).status_code
        for number in range(GUESSES)
    ]


def guess_tokens(stack: Stack) -> list[int]:
    return [
        httpx.post(
            f"{stack.urls[COLLECTOR]}/v1/reports",
            json=wire(ALICE_TOKEN[:-3] + f"{number:03}"),
            headers={"x-forwarded-for": f"203.0.113.{number}"},
        ).status_code
        for number in range(GUESSES)
    ]


def test_a_stranger_on_this_machine_does_not_pass_for_many(stack):
    start(stack)
    for answers in (guess_passwords(stack), guess_tokens(stack)):
        assert answers[:11] == [401] * 10 + [429], "ten guesses, and the next only after a while"
        assert answers.count(429) > answers[10:].count(401)


def test_a_proxy_that_env_names_tells_clients_apart(stack):
    (stack.folder / ".env").write_text("FORWARDED_ALLOW_IPS=10.0.0.0/8,127.0.0.1\n")
    start(stack)
    assert guess_passwords(stack) == [401] * 30
    assert guess_tokens(stack) == [401] * 30
