"""The relay: on disk before it answers, passed on as it came, and no path in any log."""

from __future__ import annotations

import asyncio
import gzip
import json
from datetime import UTC, datetime

import httpx
import pytest

from collector.agent.config import settings as config
from collector.agent.relay.relay import MAX_BODY_BYTES, Forward, RelayApp
from collector.agent.state.relay_posts import route_statuses
from collector.client.answers import Again, Denied, Taken, Unfit
from collector.client.sending.delivery import Answer
from collector.client.spool.spool import Spool
from collector.runtime.config import ConfigError
from collector.runtime.http.answer_mark import HEADER, VALUE

PANEL = "panel-secret-0123456789"
NODE = "node-secret-0123456789"
KEY = "rk_the/key+of=the relay".replace(" ", "")
TEXT = f"""
[collector]
url = "https://traffic.example.com"
key = "{KEY}"
[relay]
listen = "127.0.0.1:8790"
[[relay.route]]
name = "panel"
kind = "3x-ui"
secret = "{PANEL}"
[[relay.route]]
name = "node"
kind = "uniproxy"
secret = "{NODE}"
key = "rk_another"
"""
INFORM = json.dumps({"clientTraffics": [{"email": "alice", "up": 1, "down": 2}]}).encode()


def parse(text):
    return config.parse(text, read_file=lambda _: "")


@pytest.fixture
def routes():
    return parse(TEXT).relay.routes


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path / "spool", max_bytes=20_000)
    yield spool
    spool.close()


@pytest.fixture
def app(routes, spool):
    return RelayApp(routes, spool)


@pytest.fixture
async def client(app):
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://relay.test") as client:
        yield client


def kept(spool, lane="relay:panel"):
    return spool.first(lane, most_items=100, most_bytes=10**9)


def packed(routes, item, number=0):
    post = Forward(routes[number]).pack([item])
    return post, gzip.decompress(post.content)


async def test_a_post_is_kept_before_it_is_answered_and_passed_on_as_it_came(client, spool, routes):
    response = await client.post(f"/3x-ui/{PANEL}", content=INFORM, headers={"connection": "close"})
    assert response.status_code == 200
    (item,) = kept(spool)
    post, body = packed(routes, item)
    assert body == INFORM
    assert post.path == "/v1/sources/3x-ui/rk_the%2Fkey%2Bof%3Dtherelay"
    assert post.headers["webhook-id"] == item.item_id
    assert post.headers["webhook-timestamp"] == str(item.queued_at_millis // 1000)


async def test_posts_of_a_sender_that_never_retries_are_all_counted_however_alike(client, spool):
    for _ in range(3):
        await client.post(f"/3x-ui/{PANEL}", content=INFORM)
    assert len({each.item_id for each in kept(spool)}) == 3


async def test_a_retry_of_a_node_is_known_by_its_content_for_so_long(
    client, spool, app, monkeypatch
):
    now_millis = 1_795_521_600_000
    monkeypatch.setattr("collector.agent.relay.relay.wall_clock_millis", lambda: now_millis)
    path = f"/uniproxy/{NODE}?node_id=7&node_type=vless&token=panel-token"
    for _ in range(3):
        assert (await client.post(path, content=b'{"42":[1,2]}')).status_code == 200
    await client.post(path, content=b'{"42":[1,3]}')
    await client.post(path.replace("=7", "=8"), content=b'{"42":[1,2]}')
    assert len(kept(spool, "relay:node")) == 3
    assert app.posts["node", "repeated"] == 2
    now_millis += 20_001
    await client.post(path, content=b'{"42":[1,2]}')
    assert len(kept(spool, "relay:node")) == 4


async def test_a_node_s_place_is_passed_on_and_its_panel_s_token_is_not(client, spool, routes):
    path = f"/uniproxy/{NODE}?token=panel-token&node_id=7&node_type=v%26less"
    await client.post(path, content=b"{}")
    (item,) = kept(spool, "relay:node")
    post, _ = packed(routes, item, 1)
    assert post.path == "/v1/sources/uniproxy/rk_another?node_id=7&node_type=v%26less"
    assert b"panel-token" not in item.body


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/3x-ui/not-the-secret-0123", 404),
        ("POST", f"/uniproxy/{PANEL}", 404),
        ("POST", "/", 404),
        ("POST", "/3x-ui/%ff%00", 404),
        ("POST", f"/{PANEL}", 404),
        ("GET", f"/3x-ui/{PANEL}", 405),
        ("POST", f"/3x-ui/{PANEL}/", 200),
    ],
)
async def test_only_who_knows_the_path_may_post(client, spool, method, path, status):
    response = await client.request(method, path, content=INFORM)
    assert response.status_code == status
    assert len(kept(spool)) == (status == 200)
    assert PANEL not in response.text


async def test_what_is_no_post_is_not_kept(client, spool):
    assert (await client.post(f"/3x-ui/{PANEL}")).status_code == 400
    large = b"x" * (MAX_BODY_BYTES + 1)
    assert (await client.post(f"/3x-ui/{PANEL}", content=large)).status_code == 413
    assert kept(spool) == []


async def test_a_full_spool_is_said_to_the_sender_and_once_to_the_log(client, spool, app, caplog):
    statuses = set()
    for number in range(200):
        response = await client.post(f"/3x-ui/{PANEL}", content=INFORM + b" " * number)
        statuses.add(response.status_code)
    assert statuses == {200, 503}
    assert len(kept(spool)) == app.posts["panel", "kept"]
    assert app.posts["panel", "refused"] == 200 - app.posts["panel", "kept"]
    assert caplog.text.count("relay_refuses") == 1
    assert PANEL not in caplog.text


@pytest.mark.parametrize(
    ("status", "kind"),
    [(200, Taken), (204, Taken), (401, Denied), (404, Again), (403, Again), (429, Again),
     (503, Again), (400, Unfit), (413, Unfit), (422, Unfit)],
)  # fmt: skip
def test_a_post_is_passed_on_until_it_is_taken_or_refused_for_what_it_is(routes, status, kind):
    verdict = Forward(routes[0]).judge(
        Answer(status, {HEADER: VALUE}, b"{}"), count=1, now=datetime(2026, 11, 24, tzinfo=UTC)
    )
    assert isinstance(verdict, kind)


@pytest.mark.parametrize("status", [200, 204, 400, 401, 413, 422])
def test_a_post_stays_whatever_another_program_answers(routes, status):
    verdict = Forward(routes[0]).judge(
        Answer(status, {"content-type": "text/html"}, b"<html></html>"),
        count=1,
        now=datetime(2026, 11, 24, tzinfo=UTC),
    )
    assert isinstance(verdict, Again)


def test_no_secret_is_in_what_is_shown_of_the_routes(routes):
    assert PANEL not in repr(routes)
    assert KEY not in repr(routes)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            f'secret = "{PANEL}"',
            'secret = "short"',
            'relay route "panel" secret: expected at least',
        ),
        (f'secret = "{PANEL}"', "", 'relay route "panel" secret: is required (or secret_file)'),
        (f'secret = "{PANEL}"', f'secret = "{NODE}"', 'relay route "node" secret: another route'),
        ('kind = "3x-ui"', 'kind = "3xui"', 'relay route "panel" kind: expected one of 3x-ui'),
        ('name = "node"', 'name = "panel"', 'relay route "panel" name: another route has it'),
        ('listen = "127.0.0.1:8790"', "", "[relay] listen: is required"),
        ('listen = "127.0.0.1:8790"', 'listen = "8790"', "[relay] listen: expected host:port"),
        (
            'kind = "3x-ui"',
            'kind = "3x-ui"\nretry_window_seconds = 5',
            "retry_window_seconds: is not",
        ),
    ],
)
def test_a_mistake_in_a_route_is_one_line(old, new, message):
    with pytest.raises(ConfigError) as caught:
        parse(TEXT.replace(old, new))
    assert message in str(caught.value)
    assert NODE not in str(caught.value)


async def test_a_large_post_over_a_slow_line_is_taken(app, spool):
    """Its sender never tries again: what comes steadily is waited for."""
    loop = asyncio.get_running_loop()
    now_seconds = loop.time()
    loop.time = lambda: now_seconds
    left = [b" " * 2**17] * 8 + [INFORM]
    answers = []

    async def receive():
        nonlocal now_seconds
        now_seconds += 8.0
        for _ in range(3):  # what is due by then is done
            await asyncio.sleep(0)
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message):
        answers.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": f"/3x-ui/{PANEL}",
        "query_string": b"",
        "headers": [],
    }
    await app(scope, receive, send)
    assert answers[0]["status"] == 200
    assert len(kept(spool)) == 1


async def test_each_route_s_last_post_is_kept_and_outlives_the_relay(client, spool, app):
    await client.post(f"/3x-ui/{PANEL}", content=INFORM)
    path = f"/uniproxy/{NODE}?node_id=7&node_type=vless"
    for _ in range(2):
        await client.post(path, content=b'{"42":[1,2]}')
    panel, node, new = route_statuses(spool, ["panel", "node", "new"])
    assert (panel.posts, panel.repeated) == (1, 0)
    assert (node.posts, node.repeated) == (2, 1)
    assert panel.last_post_at is not None
    assert new.last_post_at is None


async def test_a_post_with_a_wrong_secret_leaves_a_line_and_never_its_secret(client, app, caplog):
    wrong = "not-the-secret-0123"
    for _ in range(3):
        await client.post(f"/3x-ui/{wrong}", content=INFORM)
    await client.post(f"/{wrong}", content=INFORM)
    await client.get(f"/3x-ui/{wrong}")
    assert app.posts["", "wrong_secret"] == 3
    assert app.wrong_secrets.problem(datetime.now(tz=UTC)).startswith("3 posts")
    assert caplog.text.count("relay_post_refused") == 1
    assert wrong not in caplog.text
