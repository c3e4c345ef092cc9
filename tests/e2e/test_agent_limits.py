"""From what a VPN server has counted to a user who is cut off in the panel: real processes all."""

from __future__ import annotations

import json
import sqlite3
import urllib.request
from contextlib import ExitStack, closing
from datetime import UTC, datetime

import pytest

from collector.agent.sources.kinds import KINDS
from collector.agent.sources.stats_service import SING_BOX, XRAY
from marzban_bridge.quota.account import GIB
from tests.support.agent.agent_process import AgentProcess
from tests.support.agent.stats_server import StatsService
from tests.support.agent.vpn_servers import VpnServer, fake_wg
from tests.support.engines.redis_server import redis_server
from tests.support.ports import free_port
from tests.support.processes import BRIDGE, COLLECTOR, PANEL, REPORTER_KEY, Stack, until

QUOTA, USED_IN_PANEL = 10 * GIB, 4 * GIB
SECRET = "panel-secret-0123456789"
TEN_MINUTES_MILLIS = 600_000


def users(*names):
    return [
        {"username": name, "data_limit": QUOTA, "used_traffic": USED_IN_PANEL} for name in names
    ]


class PrintsJson:
    """A program that prints what is in a file beside it."""

    def __init__(self, folder, name, shape):
        self._file, self._shape, self._used = folder / f"{name}.json", shape, [0, 0]
        self.command = ["cat", str(self._file)]
        self.use("", 0, 0)

    def use(self, user, up, down):
        self._used = [self._used[0] + up, self._used[1] + down]
        self._file.write_text(json.dumps(self._shape(user, *self._used)))


class WireGuard:
    """A `wg` or `awg` with one peer."""

    KEY = "Xr0QIl4dBhq2xYq1vRO0ZQy0Lw1nJm6sB3d8E5u7F0g="

    def __init__(self, folder):
        folder.mkdir()
        self._folder, self._used = folder, (0, 0)
        self.command = [str(fake_wg(folder, {self.KEY: (0, 0)})), "show", "all", "transfer"]

    def use(self, _, up, down):
        self._used = (self._used[0] + up, self._used[1] + down)
        fake_wg(self._folder, {self.KEY: self._used})


class Remnawave:
    """A Remnawave's stream, in a real Redis."""

    def __init__(self, redis):
        self._redis = redis
        self.port = redis.connection_pool.connection_kwargs["port"]

    def use(self, _, up, down):
        ts = datetime.now(tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        message = {"v": "1", "nodeId": 3, "ts": ts, "records": f"42:{up + down}"}
        self._redis.xadd("ioraw:export:user_usage", message)


def statsquery(user, up, down):
    counted = {"uplink": up, "downlink": down}
    stats = [{"name": f"user>>>{user}>>>traffic>>>{way}", "value": counted[way]} for way in counted]
    return {"stat": stats if user else []}


def counters(user, up, down):
    return [{"user": user, "upload_bytes": up, "download_bytes": down}] if user else []


def counters_of_every_kind(folder, stack):
    """Return by kind what counts, and the lines that have an agent read it."""
    pages = {kind: VpnServer() for kind in ("xray-vars", "hysteria2", "singbox-ssm", "outline")}
    paths = {"xray-vars": "debug/vars", "hysteria2": "traffic", "outline": "metrics"}
    found = {
        kind: (page, f'url = "{page.url}/{paths.get(kind, "server/v1/stats")}"')
        for kind, page in pages.items()
    }
    for kind, service in (("xray-grpc", XRAY), ("singbox-grpc", SING_BOX)):
        stats = StatsService(service)
        found[kind] = (stats, f'address = "127.0.0.1:{stats.port}"')
    for kind, shape in (("xray-command", statsquery), ("command", counters)):
        program = PrintsJson(folder, kind, shape)
        found[kind] = (program, f"command = {json.dumps(program.command)}")
    for kind in ("wireguard", "amneziawg"):
        wg = WireGuard(folder / kind)
        table = f'[source.users]\ntable = {{ "{wg.KEY}" = "{kind}" }}'
        found[kind] = (wg, f"command = {json.dumps(wg.command)}\n{table}")
    for server, _ in found.values():
        if close := getattr(server, "close", None):
            stack.callback(close)
    return found


def remnawaves_stream(folder, stack):
    """Return the same of the one that needs a Redis."""
    remnawave = Remnawave(stack.enter_context(redis_server(folder)))
    stream = f'url = "redis://127.0.0.1:{remnawave.port}"\npassword = "pw"'
    table = '[source.users]\ntable = { 42 = "remnawave" }'
    return {"remnawave": (remnawave, f"{stream}\n{table}")}


@pytest.fixture
def make_stack(tmp_path):
    made = []

    def make(*names, **environment):
        made.append(Stack(tmp_path, users(*names), environment))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def make_agent(tmp_path):
    made = []

    def make(stack, sources, agent=""):
        made.append(AgentProcess(tmp_path, stack.urls[COLLECTOR], sources, agent=agent))
        return made[-1]

    yield make
    for each in made:
        each.kill()


@pytest.fixture
def xray():
    server = VpnServer()
    yield server
    server.close()


def xray_source(server, more=""):
    return (
        f'[[source]]\nname = "xray{len(more)}"\nkind = "xray-vars"\n'
        f'url = "{server.url}/debug/vars"\n{more}'
    )


def is_read_again(server):
    seen = len(server.asked)
    until("two more readings", lambda: len(server.asked) >= seen + 2)


def set_ratio(stack, server, ratio):
    """Set it, and wait until the collector counts by it: it looks each second, when it is asked."""
    assert stack.run("collector", "ratios", "set", server, ratio).returncode == 0

    def is_known():
        answer = stack.client.post(
            f"{stack.urls[COLLECTOR]}/v1/reports",
            headers={"authorization": f"Bearer {REPORTER_KEY}"},
            json=[],  # refused, once it is known of whom it is
        )
        assert answer.status_code == 422, answer.text
        return f"ratios changed, from now on: {server}: {ratio}" in stack.log_of(COLLECTOR)

    until("a ratio that counts", is_known)


def raw_and_billed(stack, name):
    usage = stack.ask_collector(f"/v1/usage/{name}")
    return usage["upload_bytes"] + usage["download_bytes"], usage["billed_bytes"]


@pytest.mark.parametrize(
    ("open_sources", "kinds"),
    [
        (counters_of_every_kind, set(KINDS) - {"remnawave"}),
        (remnawaves_stream, {"remnawave"}),
    ],
    ids=["counters", "stream"],
)
def test_whatever_counts_a_users_traffic_the_user_is_limited_at_the_quota(
    make_stack, make_agent, tmp_path, open_sources, kinds
):
    with ExitStack() as opened:
        sources = open_sources(tmp_path, opened)
        assert set(sources) == kinds
        stack = make_stack(*kinds)
        agent = make_agent(
            stack,
            "".join(
                f'[[source]]\nname = "{kind}"\nkind = "{kind}"\n{lines}\n'
                for kind, (_, lines) in sources.items()
            ),
        )
        stack.start(PANEL, COLLECTOR, BRIDGE)
        stack.until_up(PANEL, COLLECTOR, BRIDGE)
        first = agent.run("run", "--once")
        assert first.returncode == 0, first.stderr

        def shown(field):
            return {kind: stack.user(kind)[field] for kind in kinds}

        agent.start()
        for kind, (server, _) in sources.items():
            server.use(kind, GIB, 4 * GIB)
        lowered = dict.fromkeys(kinds, QUOTA - 5 * GIB)
        until("all of it is published, to the byte", lambda: shown("data_limit") == lowered)
        assert shown("status") == dict.fromkeys(kinds, "active")
        for kind, (server, _) in sources.items():
            server.use(kind, 0, GIB)
        until("all are limited", lambda: set(shown("status").values()) == {"limited"})
        assert agent.terminate() == 0
        counted = {kind: raw_and_billed(stack, kind) for kind in kinds}
        assert counted == dict.fromkeys(kinds, (6 * GIB, 6 * GIB))


def test_on_a_server_of_ratio_2_half_the_bytes_limit_and_elsewhere_they_do_not(
    make_stack, make_agent, xray
):
    stack = make_stack("alice", "bob")
    with closing(VpnServer()) as plain:
        agent = make_agent(
            stack,
            xray_source(xray, 'server = "premium"\n') + xray_source(plain, 'server = "plain"\n'),
        )
        stack.start(PANEL, COLLECTOR, BRIDGE)
        stack.until_up(PANEL, COLLECTOR, BRIDGE)
        set_ratio(stack, "premium", "2")
        assert agent.run("run", "--once").returncode == 0
        agent.start()
        for server, name in ((xray, "alice"), (plain, "bob")):
            server.use(name, GIB, GIB)
        until("bob's limit is lowered", lambda: stack.user("bob")["data_limit"] == 8 * GIB)
        until("alice's is by twice that", lambda: stack.user("alice")["data_limit"] == 6 * GIB)
        for server, name in ((xray, "alice"), (plain, "bob")):
            server.use(name, 0, GIB)
        until("alice is limited", lambda: stack.user("alice")["status"] == "limited")
        until("bob's limit is lowered", lambda: stack.user("bob")["data_limit"] == 7 * GIB)
        assert stack.user("bob")["status"] == "active"
        assert raw_and_billed(stack, "alice") == (3 * GIB, 6 * GIB)
        assert raw_and_billed(stack, "bob") == (3 * GIB, 3 * GIB)
        stack.reset_in_panel("alice")
        until("alice is back", lambda: stack.user("alice")["status"] == "active")
        until("with all of it", lambda: stack.user("alice")["data_limit"] == QUOTA)


def test_ten_minutes_without_a_collector_a_kill_and_a_reset_counter_limit_nobody_by_a_byte_less(
    make_stack, make_agent, xray
):
    stack, port = make_stack("alice"), free_port()
    agent = make_agent(stack, xray_source(xray), f'metrics_listen = "127.0.0.1:{port}"')
    stack.start(PANEL, BRIDGE)
    stack.until_up(PANEL)
    xray.use("alice", 7, 7)  # before the first look: where counting begins
    agent.start()
    is_read_again(xray)
    for _ in range(4):
        xray.use("alice", 1, GIB // 2)
        is_read_again(xray)
        agent.kill()
        agent.start()
    is_read_again(xray)
    xray.restart()
    xray.use("alice", 3, GIB)
    is_read_again(xray)
    agent.kill()
    with closing(sqlite3.connect(agent.state)) as db, db:
        # the outage is as long as it says: so much the clock went on while the agent was down
        db.execute(
            "UPDATE item SET queued_at = queued_at - :age, "
            "queued_boot_millis = queued_boot_millis - :age",
            {"age": TEN_MINUTES_MILLIS},
        )
    agent.start()

    def oldest_age_seconds():
        if not agent.is_running():
            return 0
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        name = "agent_spool_oldest_age_seconds"
        return float(next(each.split()[1] for each in page.splitlines() if each.startswith(name)))

    is_read_again(xray)
    assert oldest_age_seconds() > 600
    assert stack.user("alice")["data_limit"] == QUOTA
    stack.start(COLLECTOR)
    stack.until_up(COLLECTOR)
    spent = 4 * (1 + GIB // 2) + 3 + GIB
    until("all of it is published", lambda: stack.user("alice")["data_limit"] == QUOTA - spent)
    assert oldest_age_seconds() == 0
    xray.use("alice", 0, QUOTA - USED_IN_PANEL - spent - GIB)
    is_read_again(xray)
    assert stack.user("alice")["status"] == "active"
    xray.use("alice", 0, GIB)
    until("alice is limited", lambda: stack.user("alice")["status"] == "limited")
    assert raw_and_billed(stack, "alice") == (6 * GIB, 6 * GIB)


def post(port, path, body):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode())
    try:
        return urllib.request.urlopen(request, timeout=3).status
    except OSError:
        return None


SOURCES = """
[uniproxy.test]
nodes = { 7 = "fr-1" }
users = { table = { 42 = "bob" } }
"""


def test_what_panels_post_to_the_relay_while_the_collector_is_away_limits_their_users(
    make_stack, make_agent, tmp_path
):
    (tmp_path / "sources.toml").write_text(SOURCES)
    stack = make_stack("alice", "bob", COLLECTOR_SOURCES_FILE=str(tmp_path / "sources.toml"))
    port = free_port()
    agent = make_agent(
        stack,
        f'[relay]\nlisten = "127.0.0.1:{port}"\n'
        f'[[relay.route]]\nname = "panel"\nkind = "3x-ui"\nsecret = "{SECRET}"\n'
        f'[[relay.route]]\nname = "board"\nkind = "uniproxy"\nsecret = "{SECRET}-2"\n',
    )
    stack.start(PANEL, BRIDGE)
    stack.until_up(PANEL)
    stack.start(COLLECTOR)
    stack.until_up(COLLECTOR)
    set_ratio(stack, "test", "2")
    stack.stop(COLLECTOR)
    agent.start()
    inform = {
        "clientTraffics": [
            {"email": "alice", "up": GIB // 2, "down": GIB},
            {"email": "idle", "up": 0, "down": 0},
        ],
        "inboundTraffics": [{"IsInbound": True, "Tag": "in", "Up": GIB, "Down": GIB}],
    }
    until("the relay takes it", lambda: post(port, f"/3x-ui/{SECRET}", inform) == 200)
    node = f"/uniproxy/{SECRET}-2?node_type=vless&node_id=7&token=panel-token"
    push = {"42": [GIB, 5 * GIB]}
    assert [post(port, node, push) for _ in range(2)] == [200, 200], "a node that tries again"
    agent.kill()
    agent.start()
    stack.start(COLLECTOR)
    stack.until_up(COLLECTOR)
    until("bob is limited", lambda: stack.user("bob")["status"] == "limited")
    until("alice's limit is lowered", lambda: stack.user("alice")["data_limit"] == 7 * GIB)
    assert stack.user("alice")["status"] == "active"
    until("the relay is back", lambda: post(port, f"/3x-ui/{SECRET}", inform) == 200)
    until("alice is limited", lambda: stack.user("alice")["status"] == "limited")
    assert raw_and_billed(stack, "alice") == (3 * GIB, 6 * GIB), "a 3x-ui is called as its reporter"
    assert raw_and_billed(stack, "bob") == (6 * GIB, 6 * GIB)
    for secret in (SECRET, REPORTER_KEY, "panel-token"):
        assert secret not in agent.log.read_text()
        assert secret not in stack.log_of(COLLECTOR)
