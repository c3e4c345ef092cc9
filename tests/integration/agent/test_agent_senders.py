"""What sends and what reads go on after a defect, and it is told."""

from __future__ import annotations

import asyncio

import pytest

from collector.agent import agent as running
from collector.agent.agent import Agent
from collector.agent.config import settings as config
from collector.agent.state.lock import heartbeat_of, lock
from collector.client.sending.delivery import Empty, Setback


@pytest.fixture
async def agent(tmp_path):
    text = (
        f'[collector]\nurl = "http://127.0.0.1:1"\nkey = "rk_k"\n'
        f'[agent]\nserver = "de-1"\nstate = "{tmp_path / "state"}"\ninterval_seconds = 0.1\n'
        '[[source]]\nname = "x"\nkind = "command"\ncommand = ["true"]\n'
    )
    with lock(tmp_path / "state") as held:
        agent = Agent(config.parse(text, read_file=str), held)
        yield agent
        await agent.close()


async def until(told):
    async with asyncio.timeout(120):
        while not told():
            await asyncio.sleep(0.01)


def problem_of(agent, kind, name):
    return getattr(heartbeat_of(agent.spool.path), kind).get(name)


async def test_a_sender_that_dies_is_told_and_begins_anew(agent, monkeypatch):
    sender = agent.senders["reports"]
    drive, deaths = sender.wire.drive, []

    async def die(asking):
        asking.close()
        deaths.append(1)
        if len(deaths) == 1:
            raise UnicodeError("label too long")
        return await drive(sender.delivery.attempt())

    monkeypatch.setattr(sender.wire, "drive", die)
    step = await sender.attempt()
    assert isinstance(step, Setback)
    assert "label too long" in problem_of(agent, "lanes", "reports")
    assert "label too long" in agent.state.delivery_problems()["reports"]
    assert isinstance(await sender.attempt(), Empty)


async def test_a_sender_that_hangs_is_told_and_begins_anew(agent, monkeypatch):
    sender = agent.senders["reports"]

    async def hang(asking):
        asking.close()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(running, "ATTEMPT_SECONDS", 0.05)
        patch.setattr(sender.wire, "drive", hang)
        assert isinstance(await sender.attempt(), Setback)
    assert "is retried" in problem_of(agent, "lanes", "reports")
    assert isinstance(await sender.attempt(), Empty)


async def test_a_source_that_cannot_be_read_for_a_defect_ends_nothing_else(agent, monkeypatch):
    (source,) = agent.config.sources
    looks = []

    async def fail(*_):
        looks.append(1)
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(running, "read", fail)
    task = asyncio.create_task(agent.run())
    try:
        await until(lambda: len(looks) > 2)
        assert "a defect" in problem_of(agent, "sources", source.name)
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_once_gives_up_when_it_is_to_though_the_collector_never_answers(tmp_path):
    async def say_nothing(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    text = (
        f'[collector]\nurl = "http://127.0.0.1:{port}"\nkey = "rk_k"\n[agent]\nserver = "de-1"\n'
        f'state = "{tmp_path / "state"}"\n[relay]\nlisten = "127.0.0.1:1"\n'
        '[[relay.route]]\nname = "a"\nkind = "3x-ui"\nsecret = "0123456789abcdef"\n'
    )
    agent = Agent(config.parse(text, read_file=str))
    head = b'{"query": "", "content_type": "x"}\n'
    agent.spool.put("reports", [("1", b"{}")])
    agent.spool.put("relay:a", [("2", head)])
    began = asyncio.get_running_loop().time()
    assert not await agent.once(give_up_seconds=0.5)
    assert asyncio.get_running_loop().time() - began < 25
    assert "did not answer" in agent.state.delivery_problems()["reports"]
    await agent.close()
    server.close()
