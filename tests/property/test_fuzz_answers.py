"""Whatever the panel or the collector answers: an error of ours or a value, and nothing changed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3

import httpx
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from collector.errors import CollectorError
from collector.intake.subscriptions.resolver import Subscriptions
from collector.metrics import Metrics
from marzban_bridge.errors import BridgeError, CollectorRefusedError, CollectorUnavailableError
from marzban_bridge.feed.client import CollectorFeed
from marzban_bridge.panels.check import PanelCheck
from marzban_bridge.panels.dialect import PanelKind
from marzban_bridge.panels.fields import MAX_NUMBER
from marzban_bridge.panels.identity import PanelUsers
from marzban_bridge.panels.port import Panel
from marzban_bridge.panels.rest_panel import RestPanel
from marzban_bridge.panels.users import (
    Listed,
    NextPlan,
    PanelAdmin,
    PanelUser,
    SignInAnswer,
    Status,
    UserUpdate,
)
from tests.recordings.panels import PASARGUARD
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.world import World
from tests.support.collector.collectors import ALICE_TOKEN
from tests.support.hostile_input import bodies, changed, json_values, texts

fuzz = settings(
    max_examples=70,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


USER = {
    "username": "alice",
    "status": "active",
    "data_limit": 10,
    "used_traffic": 7,
    "lifetime_used_traffic": 9,
    "data_limit_reset_strategy": "month",
    "created_at": "2026-11-23T11:29:44.335358",
    "expire": None,
    "on_hold_expire_duration": None,
    "next_plan": {"data_limit": 5, "expire": 0, "add_remaining_traffic": True},
    "admin": {"username": "shop", "is_sudo": False},
}
ADMIN = {"username": "root", "is_sudo": True, "users_usage": 3}
LATER_USER = PASARGUARD.recorded("user-get").body
LATER_ADMIN = PASARGUARD.recorded("admin-me").body
LATER_ADMIN = LATER_ADMIN | {"role": LATER_ADMIN["role"] | {"is_owner": False}}
PAGE = {
    "ledger_id": "l",
    "head": 3,
    "next": 2,
    "changes": [
        {"username": "alice", "upload_bytes": 1, "download_bytes": 2, "change_seq": 2, "reports": 1}
    ],
    "runs": [{"after_seq": 0, "token": "t"}],
}
READER = {"reader": "1" * 32, "position": 3, "mark": "a", "panel": "b"}
header_names = st.sampled_from(["content-type", "content-encoding", "location", "x"])


@st.composite
def answers(draw, *values):
    """An answer of another program, of a proxy, or of a panel that lost its mind."""
    headers = draw(
        st.dictionaries(
            header_names, st.sampled_from(["gzip", "text/html; charset=zz", "/", "utf-16", "é"])
        )
    )
    content = draw(bodies(*values))
    for value in draw(st.lists(st.sampled_from(values), max_size=1)):
        if isinstance(value, dict):
            content = json.dumps(draw(changed(value))).encode()
    status = draw(st.sampled_from([200, 200, 200, 201, 204, 302, 307, 400, 401, 404, 422, 500]))
    return status, headers, content


def transport(answer, *, signs_in=True):
    status, headers, content = answer

    def reply(request):
        if signs_in and request.url.path == "/api/admin/token":
            return httpx.Response(200, json={"access_token": "a-token"})
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        stream = httpx.ByteStream(content)
        return httpx.Response(status, headers=raw, stream=stream, request=request)

    return httpx.MockTransport(reply)


PLAN = NextPlan(data_limit_bytes=1, expire=0, adds_remaining_traffic=True, fires_on_either=True)
CALLS = {
    "get_user": lambda panel: panel.get_user("alice"),
    "get_users": lambda panel: panel.get_users(["alice", "bob"]),
    "update_user": lambda panel: panel.update_user(
        UserUpdate(username="alice", data_limit_bytes=5, status=Status.ACTIVE, next_plan=PLAN)
    ),
    "reset_user": lambda panel: panel.reset_user("alice"),
    "fire_next_plan": lambda panel: panel.fire_next_plan("alice"),
    "reset_all": lambda panel: panel.reset_all(),
    "whoami": lambda panel: panel.whoami(bearer="somebody's"),
    "admins": lambda panel: panel.admins(),
    "reset_admin_usage": lambda panel: panel.reset_admin_usage("shop"),
    "get_user_as": lambda panel: panel.get_user_as("alice", bearer="somebody's"),
    "check": lambda panel: panel.check(),
    "demand_there": lambda panel: panel.demand_there(),
    "usernames": lambda panel: panel.usernames(offset=0, limit=10),
    "names_like": lambda panel: panel.names_like("alice"),
    "newest_users": lambda panel: panel.newest_users(limit=10),
    "heaviest_users": lambda panel: panel.heaviest_users(limit=10),
    "sign_in_as": lambda panel: panel.sign_in_as(b"username=a", content_type="text/plain"),
}
ASK_NOTHING = {"close", "dialect", "event_of"}
"""Of the port: they send no request."""


def call_panel(name, answer, *, signs_in=True, kind=PanelKind.MARZBAN):
    async def call():
        panel = RestPanel(
            "http://panel",
            kind=kind,
            username="root",
            password="hunter2",
            transport=transport(answer, signs_in=signs_in),
        )
        try:
            return await CALLS[name](panel)
        finally:
            await panel.close()

    return asyncio.run(call())


def is_storable(value):
    """Tell whether the books can hold a value."""
    match value:
        case PanelUser():
            numbers = (value.data_limit_bytes, value.used_bytes, value.lifetime_bytes, value.expire)
            json.dumps(value.next_plan.panel_fields if value.next_plan else {}, allow_nan=False)
            value.username.encode()
            return all(each is None or abs(each) <= MAX_NUMBER for each in numbers)
        case PanelAdmin():
            value.username.encode()
            return isinstance(value.is_sudo, bool)
        case list():
            return all(is_storable(each) for each in value)
        case Listed():
            return is_storable(value.users)
        case str():
            value.encode()
            return value.isprintable()
        case PanelCheck():
            return is_storable(value.admin) and isinstance(value.is_sudo, bool)
        case PanelUsers():
            names = {*value.marks, *value.lifetime_bytes}
            return all(map(is_storable, [*names, *value.lifetime_bytes.values(), value.total]))
        case SignInAnswer():
            return value.token is None or (value.token.isascii() and value.token.isprintable())
        case _:
            return value is None or (isinstance(value, int) and abs(value) <= MAX_NUMBER)


def test_every_call_of_the_port_is_asked_for_what_may_be_answered():
    of_port = {name for name in vars(Panel) if not name.startswith("_")}
    assert of_port - ASK_NOTHING == CALLS.keys()


@pytest.mark.parametrize("kind", [PanelKind.MARZBAN, PanelKind.PASARGUARD, None])
@pytest.mark.parametrize("name", CALLS)
@settings(fuzz, max_examples=25)
@given(
    answer=answers(
        *(USER, {"users": [USER], "total": 1}, ADMIN, [ADMIN], 7),
        *(LATER_USER, {"users": [LATER_USER], "total": 1}, LATER_ADMIN),
    )
)
@example(answer=(200, {}, json.dumps(LATER_USER | {"expire": "0001-01-01T00:00:00Z"}).encode()))
@example(answer=(200, {}, json.dumps(LATER_USER | {"expire": 7}).encode()))
@example(answer=(200, {}, json.dumps(LATER_ADMIN | {"role": {"is_owner": 1}}).encode()))
@example(answer=(200, {}, json.dumps(USER | {"data_limit": 2**63}).encode()))
@example(answer=(200, {}, json.dumps(USER | {"admin": "shop"}).encode()))
@example(answer=(200, {}, json.dumps(USER | {"username": "\ud800"}).encode()))
@example(answer=(200, {}, json.dumps(USER | {"created_at": "0001-01-01T00:00:00+23:59"}).encode()))
@example(answer=(200, {}, json.dumps(USER).encode().replace(b'"expire": 0', b'"expire": 1e999')))
@example(answer=(200, {}, json.dumps(USER | {"next_plan": {"x": "\ud800"}}).encode()))
@example(answer=(200, {}, json.dumps(ADMIN | {"is_sudo": "false"}).encode()))
def test_no_answer_of_a_panel_surprises_the_bridge(name, kind, answer):
    complaint, found = "", None
    try:
        found = call_panel(name, answer, kind=kind)
    except BridgeError as error:
        complaint = str(error)
    assert is_storable(found)
    assert "hunter2" not in complaint


@fuzz
@given(answer=answers({"access_token": "t"}, {"access_token": 1}, {"access_token": "ключ"}))
@example(answer=(200, {}, '{"access_token": "ключ"}'.encode()))
@example(answer=(200, {}, b'{"access_token": "a\\r\\nx-evil: 1"}'))
def test_no_answer_to_a_sign_in_surprises_the_bridge(answer):
    complaint = ""
    try:
        call_panel("admins", answer, signs_in=False)
    except BridgeError as error:
        complaint = str(error)
    assert "hunter2" not in complaint


WRONG = {
    "username": [None, 5, "", "a\nb", "\ud800", ["alice"]],
    "status": [None, "frozen", 7, {}],
    "data_limit": ["10", 1.5, True, [], {}, 2**63, -(2**70)],
    "used_traffic": [None, "7", 7.5, True, 2**64],
    "lifetime_used_traffic": [None, "9", [9]],
    "created_at": ["yesterday", 5, [1], {"a": 1}],
    "data_limit_reset_strategy": ["fortnight", 5, ["day"]],
    "expire": ["never", 1.5, [], 2**64],
    "on_hold_expire_duration": ["long", {}],
    "next_plan": ["soon", [1], 7, {"data_limit": "5"}, {"expire": 2**99}],
    "admin": ["shop", [1], 5, {"name": "shop"}, {"username": None}],
}
wrong_users = st.sampled_from(sorted(WRONG)).flatmap(
    lambda name: st.sampled_from(WRONG[name]).map(lambda value: {name: value})
)
broken = st.one_of(
    wrong_users.map(lambda wrong: (200, {}, json.dumps({"users": [USER | wrong]}).encode())),
    st.sampled_from(
        [b"", b"<html>", b"\xff\xfe", b"[", b"null", b"7", b'{"users": 5}', b"[[]]"]
    ).map(lambda content: (200, {}, content)),
    st.sampled_from([301, 302, 307, 403, 422, 429, 500, 502, 503]).map(
        lambda status: (status, {"location": "http://elsewhere.test/"}, b"no")
    ),
)


def books_of(path):
    """Return every row of the bridge's store, as text."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        found = list(database.iterdump())
    database.close()
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("bridge"))
    for name in ("alice", "bob"):
        world.panel.create_user(name, data_limit=gib(10))
        world.ledger.report(name, gib(1))
    world.one_pass()
    yield world
    world.close()


@fuzz
@given(answer=broken)
def test_a_panel_out_of_its_mind_changes_nothing_in_the_books(world, answer):
    before = books_of(world.settings.store)
    whole, world.transport._inner = world.transport._inner, transport(answer)
    writes = len(world.transport.writes)
    try:
        with pytest.raises(BridgeError):
            world.run(world.bridges.run_once())
    finally:
        world.transport._inner = whole
    assert books_of(world.settings.store) == before
    assert len(world.transport.writes) == writes
    world.one_pass()
    assert world.account("alice").quota_bytes == gib(10)


async def ask_collector(answer, ask):
    feed = CollectorFeed("http://collector", admin_key="k", transport=transport(answer))
    try:
        return await ask(feed)
    finally:
        await feed.close()


@fuzz
@given(answer=answers(PAGE, {"servers": []}, READER, {"readers": [READER]}))
@example(answer=(200, {}, b"<html>"))
@example(answer=(200, {}, json.dumps(PAGE | {"next": 0}).encode()))
@example(answer=(200, {}, json.dumps(PAGE | {"head": 2**64}).encode()))
@example(answer=(200, {}, json.dumps(PAGE | {"ledger_id": "\ud800"}).encode()))
@example(answer=(200, {}, json.dumps(PAGE | {"runs": [{"after_seq": 2**64}]}).encode()))
def test_no_answer_of_a_collector_surprises_the_bridge(answer):
    for ask in (
        lambda feed: feed.read(after=0),
        lambda feed: feed.usage("al/ice"),
        lambda feed: feed.cleanup(days=3),
        lambda feed: feed.position_of("1" * 32),
        lambda feed: feed.reported_positions(),
    ):
        with contextlib.suppress(CollectorRefusedError, CollectorUnavailableError):
            asyncio.run(ask_collector(answer, ask))


@fuzz
@given(change=changed(PAGE["changes"][0]), page=changed(PAGE))
def test_a_page_of_the_feed_is_whole_or_refused(change, page):
    content = json.dumps(page | ({"changes": [change]} if "changes" in page else {})).encode()
    try:
        found = asyncio.run(ask_collector((200, {}, content), lambda feed: feed.read(after=0)))
    except CollectorRefusedError:
        return
    assert all(0 <= each.total_bytes < 2**63 for each in found.changes)
    assert found.cursor > 0 or not found.changes


@fuzz
@given(answer=answers({"username": "alice"}, {"username": "\ud800"}, {"username": ["a"]}))
@example(answer=(200, {}, b'{"username": "a\\nb"}'))
@example(answer=(200, {}, b"[" * 100_000))
def test_no_answer_of_a_panel_makes_a_user_of_what_is_none(answer):
    async def resolve():
        subscriptions = Subscriptions(
            {"default": "http://panel/sub"},
            monotonic_seconds=lambda: 0.0,
            metrics=Metrics(),
            transport=transport(answer),
        )
        try:
            return await subscriptions.resolve(ALICE_TOKEN, stranger="")
        finally:
            await subscriptions.close()

    try:
        username = asyncio.run(resolve())
    except CollectorError:
        return
    assert username.isprintable()
    assert username == json.loads(answer[2])["username"]


@fuzz
@given(value=json_values, name=texts)
def test_a_number_where_a_user_should_be_is_no_user(value, name):
    assume(not isinstance(value, dict))
    answer = (200, {}, json.dumps({"users": [value]}).encode())
    with contextlib.suppress(BridgeError):
        assert call_panel("get_users", answer).users == []
