"""A real agent before a real collector: killed, cut off, restarted sources; the sum is what was used."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.support.agent.agent_process import AgentProcess
from tests.support.agent.vpn_servers import VpnServer, fake_wg
from tests.support.collector.collector_process import KEY, CollectorProcess, poll
from tests.support.ports import free_port

ROUNDS = 8
USERS = ("alice", "bob", "carol", "dave")
ALICE_KEY = "Xr0QIl4dBhq2xYq1vRO0ZQy0Lw1nJm6sB3d8E5u7F0g="


@pytest.fixture
def collector(tmp_path) -> Iterator[CollectorProcess]:
    collector = CollectorProcess(tmp_path)
    yield collector
    collector.kill()


@pytest.fixture
def server() -> Iterator[VpnServer]:
    server = VpnServer()
    yield server
    server.close()


@pytest.fixture
def make_agent(tmp_path, collector) -> Iterator:
    made = []

    def make(sources: str, agent: str = "") -> AgentProcess:
        made.append(
            AgentProcess(tmp_path, f"http://127.0.0.1:{collector.port}", sources, agent=agent)
        )
        return made[-1]

    yield make
    for each in made:
        each.kill()


def xray(server: VpnServer) -> str:
    return f'[[source]]\nname = "xray"\nkind = "xray-vars"\nurl = "{server.url}/debug/vars"\n'


def is_read_again(server: VpnServer) -> None:
    """Wait until the agent has kept all that is counted now: it reads one after the other."""
    seen = len(server.asked)
    poll("two more readings", lambda: len(server.asked) >= seen + 2)


def test_through_kills_outages_and_restarts_nothing_is_lost_and_nothing_doubled(
    collector, server, make_agent
):
    rng = random.Random(5)
    agent = make_agent(xray(server))
    server.use("alice", 5, 5)  # before the first look: where counting begins
    agent.start()
    is_read_again(server)
    server.used.clear()
    is_up = False
    for number in range(ROUNDS):
        for _ in range(rng.randrange(1, 30)):
            server.use(rng.choice(USERS), rng.randrange(10**6), rng.randrange(10**8))
        if rng.random() < 0.4:
            if is_up:
                collector.kill()
            else:
                collector.start()
            is_up = not is_up
        if number % 4 == 3:
            is_read_again(server)
            server.restart()
            server.use(rng.choice(USERS), 1, rng.randrange(10**9))
        seen, wanted = len(server.asked), rng.randrange(1, 4)
        poll("some readings", lambda: len(server.asked) >= seen + wanted)  # noqa: B023 - within the round
        time.sleep(rng.random() * 0.05)  # anywhere between a reading and its being sent
        agent.kill()
        agent.start()
    if not is_up:
        collector.start()
    is_read_again(server)
    expected = {user: amount for user, amount in server.used.items() if amount}
    poll("all that was used", lambda: collector.totals() == expected)
    is_read_again(server)
    assert agent.terminate() == 0
    assert collector.totals() == expected
    assert collector.run("check").returncode == 0


def test_while_the_collector_is_away_the_spool_holds_and_says_so_and_then_drains(
    collector, server, make_agent, tmp_path
):
    port = free_port()
    agent = make_agent(
        xray(server),
        f'metrics_listen = "127.0.0.1:{port}"\nmetrics_file = "{tmp_path}/agent.prom"',
    )
    agent.start()
    is_read_again(server)
    for number in range(8):
        server.use("alice", 1, number)
        is_read_again(server)

    def metric(name: str) -> float:
        lines = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text.splitlines()
        return float(next(line.split()[-1] for line in lines if line.startswith(name)))

    assert metric("agent_spool_items") >= 8
    poll("an age that grows", lambda: metric("agent_spool_oldest_age_seconds") > 1)
    assert metric("agent_delivery_up") == 0
    assert metric("agent_source_up") == 1
    assert "agent_spool_oldest_age_seconds" in (tmp_path / "agent.prom").read_text()
    status = agent.run("status")
    assert status.returncode == 1
    assert "nothing listens at its address" in status.stdout
    collector.start()
    poll("all that was used", lambda: collector.totals() == {"alice": server.used["alice"]})
    poll("an empty spool", lambda: metric("agent_spool_items") == 0)
    poll("all is well", lambda: agent.run("status").returncode == 0)
    assert metric("agent_delivery_up") == 1


def test_told_to_end_it_does_at_once_even_while_a_source_hangs(server, make_agent):
    hanging = '[[source]]\nname = "slow"\nkind = "command"\ncommand = ["sleep", "1000"]\n'
    agent = make_agent(xray(server) + hanging)
    agent.start()
    is_read_again(server)
    began = time.monotonic()
    assert agent.terminate() == 0
    assert time.monotonic() - began < 30  # the command takes 1000 s
    assert "agent_ends" in agent.log.read_text()
    assert "Traceback" not in agent.log.read_text()
    assert KEY not in agent.log.read_text()


def test_wireguard_by_its_command_once_with_a_table_of_keys(collector, make_agent, tmp_path):
    script = fake_wg(tmp_path, {ALICE_KEY: (100, 200)})
    agent = make_agent(
        f'[[source]]\nname = "wg"\nkind = "wireguard"\n'
        f'command = ["{script}", "show", "all", "transfer"]\n'
        f'[source.users]\ntable = {{ "{ALICE_KEY}" = "alice" }}\n'
    )
    collector.start()
    assert agent.run("run", "--once").returncode == 0
    assert collector.totals() == {}
    fake_wg(tmp_path, {ALICE_KEY: (150, 1200), ALICE_KEY[-2::-1] + "=": (7, 7)})
    look = agent.run("run", "--dry-run")
    assert look.returncode == 0
    assert "1000 B" in look.stdout
    assert "1 names match no user" in look.stdout
    assert collector.totals() == {}
    assert agent.run("run", "--once").returncode == 0
    assert collector.totals() == {"alice": 1050}
    fake_wg(tmp_path, {ALICE_KEY: (3, 4)})  # the interface was brought down and up
    assert agent.run("run", "--once").returncode == 0
    assert collector.totals() == {"alice": 1057}


def test_a_dry_run_before_the_first_run_leaves_nothing_behind(collector, server, make_agent):
    for name in ("alice", "bob", "carol", "dave", "erin", "frank"):
        server.use(name, 1, 2)
    agent = make_agent(xray(server))
    collector.start()
    look = agent.run("run", "--dry-run")
    assert look.returncode == 0
    begins = "these values would be the baseline, for alice, bob, carol, dave, erin and 1 more"
    assert begins in look.stdout
    assert "key: the collector accepts it" in look.stdout
    assert not agent.state.exists()
    assert collector.totals() == {}


def test_a_dry_run_says_what_is_wrong_with_address_or_key(collector, server, make_agent):
    agent = make_agent(
        f'{xray(server)}[relay]\nlisten = "127.0.0.1:1"\n[[relay.route]]\nname = "panel"\n'
        'kind = "3x-ui"\nsecret = "a-secret-of-some-length"\nkey = "rk_of-nobody"\n'
    )
    away = agent.run("run", "--dry-run")
    assert away.returncode == 1
    assert "key: the collector is not running: nothing listens" in away.stdout
    collector.start()
    wrong = agent.run("run", "--dry-run")
    assert wrong.returncode == 1
    assert "key: the collector accepts it" in wrong.stdout
    assert "key of relay route panel: the collector answers 401: this reporter key" in wrong.stdout
    assert "rk_of-nobody" not in wrong.stdout + wrong.stderr


def test_once_with_a_source_or_collector_that_does_not_answer_says_so_and_keeps_what_it_has(
    collector, server, make_agent
):
    agent = make_agent(
        f'{xray(server)}count_first = true\n[[source]]\nname = "gone"\nkind = "hysteria2"\n'
        f'url = "http://127.0.0.1:{free_port()}/traffic"\n'
    )
    server.use("alice", 1, 2)
    done = agent.run("run", "--once", "--give-up-seconds", "0.1")
    assert done.returncode == 1
    assert "source_fails source=gone" in done.stderr
    assert "does not answer" in done.stderr
    assert "1 items are queued and not sent yet" in done.stderr
    collector.start()
    assert "reports: not delivered" in agent.run("status").stdout
    assert agent.run("run", "--once").returncode == 1, "one source is still away"
    assert collector.totals() == {"alice": 3}
    assert "not delivered" not in agent.run("status").stdout


def test_a_wrong_configuration_is_one_line_and_exit_code_2(make_agent):
    agent = make_agent('[[source]]\nname = "wg0"\nkind = "wireguard"\ncomand = ["wg"]')
    for command in (["run"], ["run", "--once"], ["run", "--dry-run"], ["check"], ["status"]):
        done = agent.run(*command)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert 'source "wg0" comand: is not known here (did you mean command?)' in done.stderr
        assert str(agent.config) in done.stderr


def test_a_second_agent_on_the_same_state_is_refused(server, make_agent):
    agent = make_agent(xray(server))
    agent.start()
    is_read_again(server)
    second = agent.run("run")
    assert second.returncode == 1
    assert f"is in use by another agent (pid {agent.pid})" in second.stderr
    assert agent.is_running()


def test_an_address_that_is_taken_is_one_line(server, make_agent):
    taken = server.url.rsplit(":", 1)[1]
    done = make_agent(xray(server), f'metrics_listen = "127.0.0.1:{taken}"').run("run")
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{taken}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_spool_leaves_the_counting_to_the_source(collector, server, make_agent):
    """Nothing is dropped: what did not fit is part of a later difference."""
    agent = make_agent(xray(server), "max_spool_mib = 1")
    agent.start()
    is_read_again(server)
    agent.kill()
    with closing(sqlite3.connect(agent.state)) as db, db:
        db.execute(
            "INSERT OR REPLACE INTO backlog (lane, items, size_bytes) VALUES ('ballast', 1, 1048500)"
        )
    agent.start()
    server.use("alice", 10, 0)
    is_read_again(server)
    poll("it is told", lambda: "is full" in agent.log.read_text())
    server.use("alice", 5, 0)
    is_read_again(server)
    agent.kill()
    with closing(sqlite3.connect(agent.state)) as db, db:
        db.execute("DELETE FROM backlog WHERE lane = 'ballast'")
    agent.start()
    collector.start()
    poll("all of it", lambda: collector.totals() == {"alice": 15})


def test_it_is_small(server, make_agent):
    agent = make_agent(xray(server))
    agent.start(fresh=True)
    is_read_again(server)
    status = Path(f"/proc/{agent.pid}/status").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    assert kib < 64 * 1024
