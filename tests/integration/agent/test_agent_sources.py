"""Sources asked over real sockets: each form of answer, and what stands in the way of one."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from collector.agent.config import settings as config
from collector.agent.config.users import UserMap
from collector.agent.errors import SourceError
from collector.agent.fetch import local_http, read
from collector.agent.sources.stats_service import SING_BOX, XRAY
from collector.agent.state.state import State
from collector.agent.stream.follow import follow, peek
from collector.client.errors import SpoolFullError
from collector.client.report import decode
from collector.client.spool.spool import REPORTS, Spool
from tests.support.agent.stats_server import StatsService
from tests.support.agent.vpn_servers import VpnServer
from tests.support.collector.collector_process import poll
from tests.support.engines.redis_server import redis_server
from tests.support.ports import free_port

HEAD = '[collector]\nurl = "http://c"\nkey = "rk_k"\n[agent]\nserver = "de-1"\n[[source]]\n'


def source(text):
    (only,) = config.parse(f'{HEAD}name = "x"\n{text}', read_file=lambda _: "").sources
    return only


async def sampled(text):
    async with local_http() as http:
        return await read(source(text), http)


async def counted(text):
    sample = await sampled(text)
    return {each.user: (each.upload_bytes, each.download_bytes) for each in sample.counters}


@pytest.fixture
def server():
    server = VpnServer()
    server.use("alice", 10, 20)
    server.use("bob", 0, 3)
    yield server
    server.close()


USED = {"alice": (10, 20), "bob": (0, 3)}


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("xray-vars", "/debug/vars"),
        ("hysteria2", "/traffic"),
        ("hysteria2", ""),
        ("singbox-ssm", "/server/v1/stats"),
        ("outline", "/metrics"),
    ],
)
async def test_a_page_is_read_and_nothing_is_reset(server, kind, path):
    for _ in range(2):
        assert await counted(f'kind = "{kind}"\nurl = "{server.url}{path}"') == USED


async def test_a_wrong_secret_is_said_and_not_repeated(server):
    server.secret = "the-right-one"
    text = f'kind = "hysteria2"\nurl = "{server.url}/traffic"\nsecret = "%s"'
    assert await counted(text % "the-right-one") == USED
    with pytest.raises(SourceError, match="answers 401: is the secret right") as caught:
        await counted(text % "a-wrong-one")
    assert "a-wrong-one" not in str(caught.value)


async def test_what_stands_in_the_way_is_said(server):
    with pytest.raises(SourceError, match="answers 404"):
        await counted(f'kind = "xray-vars"\nurl = "{server.url}/other"')
    with pytest.raises(SourceError, match=r"does not answer \(ConnectError\)"):
        await counted(f'kind = "xray-vars"\nurl = "http://127.0.0.1:{free_port()}"')
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(SourceError, match=r"no answer within 0\.1 s"):
            await counted(f'kind = "xray-vars"\nurl = "{url}"\ntimeout_seconds = 0.1')


async def test_a_command_is_run_without_a_shell_and_its_complaint_is_shown():
    printed = '[{\\"user\\": \\"a b; $HOME\\", \\"upload_bytes\\": 1}]'
    assert await counted(f'kind = "command"\ncommand = ["echo", "{printed}"]') == {
        "a b; $HOME": (1, 0)
    }
    with pytest.raises(SourceError, match=r"^sh ended with 3: no such interface$"):
        await counted(
            'kind = "command"\ncommand = ["sh", "-c", "echo no such interface >&2; exit 3"]'
        )
    with pytest.raises(SourceError, match="cannot run no-such-program: No such file"):
        await counted('kind = "command"\ncommand = ["no-such-program"]')


XRAY_SCRIPT = """#!/bin/sh
case "$2" in
  statssys) echo '{"Uptime": 9}'; exit %d ;;
  statsquery) echo '{"stat": [{"name": "user>>>alice>>>traffic>>>uplink", "value": "5"}]}' ;;
esac
"""


@pytest.mark.parametrize(("code", "uptime_seconds"), [(0, 9), (1, None)])
async def test_xray_by_command_is_asked_for_its_uptime_where_it_can_tell(
    tmp_path, code, uptime_seconds
):
    script = tmp_path / "xray"
    script.write_text(XRAY_SCRIPT % code)
    script.chmod(0o755)
    sample = await sampled(
        f'kind = "xray-command"\ncommand = ["{script}", "api", "statsquery", "-pattern", "u"]'
    )
    assert [(each.user, each.upload_bytes) for each in sample.counters] == [("alice", 5)]
    assert sample.life.uptime_seconds == uptime_seconds


def is_gone(pid):
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().split()[2] == "Z"


async def test_a_command_that_hangs_is_ended_with_all_it_started(tmp_path):
    pid = tmp_path / "pid"
    command = f'["sh", "-c", "sleep 999 & echo $! > {pid}; wait"]'
    for seconds in (0.5, 5, 50):  # until it has come so far, on however busy a machine
        with pytest.raises(SourceError, match="no answer within"):
            await counted(f'kind = "command"\ntimeout_seconds = {seconds}\ncommand = {command}')
        if pid.exists() and pid.read_text():
            break
    poll("an end of what was started", lambda: is_gone(pid.read_text().strip()))


@pytest.mark.parametrize(
    ("kind", "service", "pattern"), [("xray-grpc", XRAY, 1), ("singbox-grpc", SING_BOX, 3)]
)
async def test_the_stats_service_is_asked_for_users_and_not_to_reset(kind, service, pattern):
    with closing(StatsService(service)) as stats:
        stats.counters = {
            "user>>>alice>>>traffic>>>uplink": 10,
            "user>>>alice>>>traffic>>>downlink": 2**40,
        }
        text = f'kind = "{kind}"\naddress = "127.0.0.1:{stats.port}"'
        assert await counted(text) == {"alice": (10, 2**40)}
        assert stats.asked == [{pattern: b"user>>>"}]
        stats.uptimes = [50, 1]
        with pytest.raises(SourceError, match="restarted during"):
            await counted(text)


async def test_a_server_without_the_service_is_said_to_have_none(server):
    stats = StatsService("another.Service")
    with closing(stats), pytest.raises(SourceError, match="has no xray"):
        await counted(f'kind = "xray-grpc"\naddress = "127.0.0.1:{stats.port}"')
    with pytest.raises(SourceError, match="does not answer gRPC"):
        await counted(f'kind = "xray-grpc"\naddress = "127.0.0.1:{server.url.rsplit(":", 1)[1]}"')


@pytest.fixture
def redis(tmp_path):
    with redis_server(tmp_path) as client:
        yield client


class Panel:
    """Remnawave, as far as its stream goes."""

    def __init__(self, redis):
        self.redis = redis
        self.port = redis.connection_pool.connection_kwargs["port"]

    def use(self, records, node=3):
        ts = datetime.now(tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        message = {"v": "1", "nodeId": node, "ts": ts, "records": records}
        return self.redis.xadd("ioraw:export:user_usage", message)

    def source(self, text=""):
        return source(
            f'kind = "remnawave"\nurl = "redis://127.0.0.1:{self.port}"\npassword = "pw"\n{text}'
            '\n[source.nodes]\n3 = "de-3"\n[source.users]\ntable = { 42 = "alice", 7 = "bob" }'
        )


@pytest.fixture
def panel(redis):
    return Panel(redis)


@pytest.fixture
def state(tmp_path):
    spool = Spool(tmp_path / "state", max_bytes=600_000)
    yield State(spool)
    spool.close()


def queued(state):
    items = state.spool.first(REPORTS, most_items=10**6, most_bytes=10**9)
    reports = [decode(each.body) for each in items]
    return [(each.user, each.server, each.download_bytes) for each in reports]


async def test_a_stream_is_followed_from_where_it_ends_at_the_first_look(panel, state):
    panel.use("42:1000")
    first = await follow(panel.source(), panel.source().request, state)
    assert first.is_first
    message_id = panel.use("42:5;7:6;99:7")
    panel.use("42:8", node=9)
    assert len((await peek(panel.source(), panel.source().request, state)).reports) == 3
    assert queued(state) == []
    brought = await follow(panel.source(), panel.source().request, state)
    assert brought.unmapped_names == ("99",)
    await follow(panel.source(), panel.source().request, state)
    assert queued(state) == [("alice", "de-3", 5), ("bob", "de-3", 6), ("alice", "de-1-9", 8)]
    first_id = state.spool.first(REPORTS, most_items=1, most_bytes=1)[0].item_id
    assert first_id == f"remnawave/{message_id}/42"


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # what redis leaves open when cancelled
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_reading_a_stream_ends_when_it_is_cancelled_at_whatever_moment(panel, state):
    panel.use("42:1000")
    request = panel.source().request
    await follow(panel.source(), request, state)
    clock = asyncio.get_running_loop().time
    begun = clock()
    await follow(panel.source(), request, state)
    whole_seconds = clock() - begun
    is_cancelled = []
    for part in range(300):
        reading = asyncio.create_task(follow(panel.source(), request, state))
        await asyncio.wait([reading], timeout=part / 300 * whole_seconds)
        if not reading.done():
            reading.cancel()
            await asyncio.wait([reading])
            is_cancelled.append(reading.cancelled())
    await asyncio.sleep(0)
    gc.collect()  # here, and not in a later test
    assert is_cancelled
    assert all(is_cancelled), f"{is_cancelled.count(False)} of {len(is_cancelled)} went on"


async def test_a_redis_user_that_may_only_read_the_stream_is_enough(panel, state):
    panel.redis.acl_setuser(
        "agent",
        enabled=True,
        passwords=["+secret-word"],
        keys=["ioraw:export:user_usage"],
        commands=["+xread", "+xrange", "+xrevrange"],
    )
    url = f"redis://127.0.0.1:{panel.port}"
    only = source(
        f'kind = "remnawave"\nurl = "{url}"\nusername = "agent"\npassword = "secret-word"'
    )
    await follow(only, only.request, state)
    panel.use("42:5")
    panel.use("42:5")
    assert len((await follow(only, only.request, state)).reports) == 2
    panel.use("42:5")
    assert len((await follow(only, only.request, state)).reports) == 1


async def test_a_long_stream_is_read_to_its_end_page_by_page(panel, state):
    for number in range(1, 1102):
        panel.use(f"42:{number}")
    only = panel.source("count_first = true")
    await follow(only, only.request, state)
    assert sum(amount for _, _, amount in queued(state)) == 1101 * 1102 // 2


async def test_if_the_spool_is_full_the_stream_keeps_the_rest(panel, state):
    only = panel.source()
    await follow(only, only.request, state)
    for _ in range(3000):
        panel.use("42:1")
    total = 0
    with pytest.raises(SpoolFullError):
        await follow(only, only.request, state)
    while True:
        items = state.spool.first(REPORTS, most_items=10**6, most_bytes=10**9)
        total += len(items)
        with state.spool.transaction() as db:
            db.execute("DELETE FROM item")
            db.execute("DELETE FROM backlog")
        try:
            await follow(only, only.request, state)
        except SpoolFullError:
            continue
        break
    assert total + len(queued(state)) == 3000


async def test_a_stream_that_was_cut_behind_our_back_says_so(panel, state):
    only = panel.source()
    panel.use("42:1")
    await follow(only, only.request, state)
    for _ in range(5):
        panel.use("42:1")
    panel.redis.xtrim("ioraw:export:user_usage", maxlen=2, approximate=False)
    brought = await follow(only, only.request, state)
    assert brought.advance.restarts == 1
    assert len(queued(state)) == 2
    for _ in range(1100):
        panel.use("42:1")
    panel.redis.xtrim("ioraw:export:user_usage", maxlen=1050, approximate=False)
    brought = await follow(only, only.request, state)
    assert (brought.advance.restarts, len(brought.reports)) == (1, 1050)
    panel.use("42:1")
    assert (await follow(only, only.request, state)).advance.restarts == 0


STREAM = "ioraw:export:user_usage"


async def test_a_message_nobody_can_read_is_set_aside_and_those_after_it_count(panel, state):
    only = panel.source()
    await follow(only, only.request, state)
    panel.use("42:1")
    bad_id = panel.redis.xadd(STREAM, {"v": b"1", "nodeId": b"3", "records": b"42:\xff\xfe"})
    panel.redis.xadd(STREAM, {b"\xff": b"x"})
    panel.redis.xadd(STREAM, {"v": "2", "shape": "of a later version"})
    panel.use("42:9999999999999999999;7:2")
    panel.use("42:4")
    brought = await follow(only, only.request, state)
    assert [amount for _, _, amount in queued(state)] == [1, 2, 4]
    assert [each.message_id for each in brought.set_aside][:1] == [bad_id]
    assert len(brought.set_aside) == 3
    assert brought.skipped == 1
    assert brought.unmapped_names == ()
    for _ in range(2):
        (status,) = state.statuses()
        assert status.set_aside_total == 3
        assert "version" in status.set_aside_last
        await follow(only, only.request, state)


def refill(panel, ids, records):
    for each, record in zip(ids, records, strict=True):
        panel.redis.xadd(STREAM, {"v": "1", "nodeId": "3", "ts": "", "records": record}, id=each)


async def test_a_stream_made_anew_with_lower_ids_is_read_from_its_start_and_told(panel, state):
    only = panel.source()
    refill(panel, ["1000-0"], ["42:1"])
    await follow(only, only.request, state)
    refill(panel, ["1001-0", "1002-0"], ["42:2", "42:4"])
    await follow(only, only.request, state)
    panel.redis.delete(STREAM)
    await follow(only, only.request, state)
    refill(panel, ["5-0", "6-0"], ["42:8", "42:16"])
    brought = await follow(only, only.request, state)
    assert brought.is_anew
    assert sum(amount for _, _, amount in queued(state)) == 2 + 4 + 8 + 16
    assert "was replaced" in state.statuses()[0].note
    refill(panel, ["7-0"], ["42:32"])
    assert not (await follow(only, only.request, state)).is_anew
    assert sum(amount for _, _, amount in queued(state)) == 2 + 4 + 8 + 16 + 32


@pytest.mark.parametrize("ids", [["1000-0", "1001-0"], ["1000-0", "1001-0", "1002-0", "1003-0"]])
async def test_a_stream_made_anew_that_uses_ids_again_counts_under_others(panel, state, ids):
    only = panel.source()
    await follow(only, only.request, state)
    refill(panel, ["1000-0", "1001-0", "1002-0"], ["42:1", "42:2", "42:4"])
    await follow(only, only.request, state)
    panel.redis.delete(STREAM)
    refill(panel, ids, [f"42:{8 * 2**number}" for number in range(len(ids))])
    assert (await follow(only, only.request, state)).is_anew
    amounts = [amount for _, _, amount in queued(state)]
    assert amounts == [1, 2, 4, *(8 * 2**number for number in range(len(ids)))]
    items = state.spool.first(REPORTS, most_items=10**6, most_bytes=10**9)
    assert len({each.item_id for each in items}) == len(amounts)


async def test_a_stream_made_anew_that_has_overtaken_its_old_end_is_read_from_its_start(
    panel, state
):
    only = panel.source()
    await follow(only, only.request, state)
    refill(panel, ["1000-0"], ["42:1"])
    await follow(only, only.request, state)
    panel.redis.delete(STREAM)
    refill(panel, ["999-0", "1000-1"], ["42:2", "42:4"])
    await follow(only, only.request, state)
    assert [amount for _, _, amount in queued(state)] == [1, 2, 4]


async def test_a_stream_that_is_restored_from_a_backup_counts_nothing_again(panel, state):
    only = panel.source()
    refill(panel, ["1-0", "2-0"], ["42:1", "42:2"])
    await follow(only, only.request, state)
    refill(panel, ["3-0", "4-0", "5-0"], ["42:4", "42:8", "42:16"])
    await follow(only, only.request, state)
    panel.redis.delete(STREAM)
    refill(panel, ["1-0", "2-0", "3-0"], ["42:1", "42:2", "42:4"])
    assert (await follow(only, only.request, state)).is_anew
    refill(panel, ["4-5"], ["42:32"])
    await follow(only, only.request, state)
    assert [amount for _, _, amount in queued(state)] == [4, 8, 16, 32]


async def test_what_was_read_by_an_agent_of_before_is_not_read_again(panel, state):
    only = panel.source("count_first = true")
    for number in range(1, 1102):
        panel.use(f"42:{number}")
    await follow(only, only.request, state)
    with state.spool.transaction() as db:
        db.execute("DELETE FROM stream_message")  # as a state of before
    before = len(queued(state))
    kept = panel.redis.xrange(STREAM)
    await follow(only, only.request, state)
    panel.redis.delete(STREAM)
    for message_id, message in kept[:-1]:
        panel.redis.xadd(STREAM, message, id=message_id)
    await follow(only, only.request, state)
    assert len(queued(state)) == before


async def test_what_is_remembered_of_a_stream_ends_with_the_stream(panel, state):
    only = panel.source()
    await follow(only, only.request, state)
    for number in range(20):
        panel.use(f"42:{number + 1}")
        await follow(only, only.request, state)
        panel.redis.xtrim(STREAM, maxlen=3, approximate=False)
    with state.spool.reading() as db:
        assert db.execute("SELECT count(*) FROM stream_message").fetchone()[0] <= 4


async def test_a_page_larger_than_the_spool_is_read_in_parts(panel, state):
    only = panel.source()
    await follow(only, only.request, state)
    table = ";".join(f"42{number}:1" for number in range(600))
    everybody = replace(only, users=UserMap())
    for _ in range(6):
        panel.use(table)
    total = 0
    for _ in range(20):
        with contextlib.suppress(SpoolFullError):
            await follow(everybody, only.request, state)
        total += len(queued(state))
        with state.spool.transaction() as db:
            db.execute("DELETE FROM item")
            db.execute("DELETE FROM backlog")
    assert total == 3600


async def test_a_redis_that_refuses_or_is_away_is_a_source_error_without_its_password(panel, state):
    text = f'kind = "remnawave"\nurl = "redis://127.0.0.1:{panel.port}"\npassword = "a-wrong-one"'
    with pytest.raises(SourceError, match="AuthenticationError") as caught:
        await follow(source(text), source(text).request, state)
    assert "a-wrong-one" not in str(caught.value)
    text = f'kind = "remnawave"\nurl = "redis://127.0.0.1:{free_port()}"'
    with pytest.raises(SourceError, match="ConnectionError"):
        await follow(source(text), source(text).request, state)


async def test_reading_can_be_given_up_at_any_moment():
    async with local_http() as http:
        slow = source('kind = "command"\ncommand = ["sleep", "999"]')
        task = asyncio.create_task(read(slow, http))
        await asyncio.sleep(0.05)
        task.cancel()
        async with asyncio.timeout(120):
            await asyncio.wait([task])
        assert task.cancelled()
