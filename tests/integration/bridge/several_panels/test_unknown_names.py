"""Names that no panel user has: what they cost the panel, and how soon one is a user's."""

from __future__ import annotations

import httpx
import pytest

from marzban_bridge.reconcile.work_queue import Urgency
from marzban_bridge.simulator.http.app import create_simulator_app
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.webhook_delivery import deliver
from tests.support.bridge.world import World


@pytest.fixture
def world(tmp_path):
    opened = World(tmp_path)
    yield opened
    opened.close()


class Counting(httpx.AsyncBaseTransport):
    """Counts what is asked for, and refuses long URLs as a web server before the panel does."""

    def __init__(self, inner, *, longest_bytes=4096):
        self.inner = inner
        self.longest_bytes = longest_bytes
        self.asked = []

    async def handle_async_request(self, request):
        if "token" not in request.url.path and request.url.path != "/api/admin":
            self.asked.append(request)
        if len(request.url.raw_path) > self.longest_bytes:
            return httpx.Response(414, html="<h1>414 Request-URI Too Large</h1>")
        return await self.inner.handle_async_request(request)

    def users_asked(self):
        """Take what was asked about users since the last time."""
        found = [each for each in self.asked if each.url.path.startswith("/api/user")]
        self.asked.clear()
        return found


@pytest.fixture
def counting(world):
    world.transport._inner = Counting(world.transport._inner)
    return world.transport._inner


def limit(world, username):
    return world.panel.get_user(username)["data_limit"] / gib(1)


def unknown(world):
    return {each.username for each in world.bridge.store.unknown_names.all()}


@pytest.mark.parametrize("name", ["n{:03}" + "x" * 251, "{:03}" + "🦊" * 200, "{:03}ф" * 50])
def test_names_that_no_user_can_have_stop_nobody_and_are_never_asked_for(world, counting, name):
    world.panel.create_user("alice", data_limit=gib(10))
    for number in range(60):
        world.ledger.report(name.format(*[number] * 50), 1)
    world.ledger.report("alice", gib(2))
    world.one_pass()
    assert limit(world, "alice") == 8
    assert world.bridge.reconciler.health.outage.reason is None
    assert len(unknown(world)) == 60
    names = [each for it in counting.users_asked() for each in it.url.params.get_list("username")]
    assert names == ["alice"]
    texts = {each.event.text for each in world.bridge.store.events.newest(limit=500)}
    assert any("no user of Marzban can have: 3 to 32 letters" in text for text in texts)


def test_many_names_go_into_urls_that_every_web_server_takes(world, counting):
    for number in range(200):
        world.ledger.report(f"u{number:03}.{'x' * 120}", 1)
    world.panel.create_user("alice", data_limit=gib(10))
    world.ledger.report("alice", gib(2))
    world.one_pass()
    assert limit(world, "alice") == 8
    assert max(len(each.url.raw_path) for each in counting.users_asked()) < 2500


def test_deleted_users_cost_a_few_requests_an_hour(world, counting):
    for number in range(60):
        world.panel.create_user(f"user{number:03}", data_limit=gib(10))
        world.ledger.report(f"user{number:03}", gib(1))
    world.one_pass()
    for number in range(0, 60, 5):
        world.panel.delete_user(f"user{number:03}")
    for _ in range(20):
        world.clock.advance(seconds=59)
        world.one_pass()
    assert len(list(world.bridge.store.gone_accounts.all())) == 12
    counting.users_asked()
    for _ in range(60):
        world.clock.advance(seconds=59)
        world.one_pass()
    asked = counting.users_asked()
    assert len(asked) <= 60 * 3 + 2 * 12, "the lists of a pass, and two searches for each name"
    assert not [each for each in asked if each.url.path != "/api/users"]


def test_names_nobody_has_cost_a_few_requests_an_hour_and_one_a_pass_while_reported(
    world, counting
):
    names = [f"nobody{number:03}" for number in range(100)]
    for name in names:
        world.ledger.report(name, 1)
    for _ in range(20):
        world.clock.advance(seconds=59)
        world.one_pass()
    counting.users_asked()
    for _ in range(60):
        world.clock.advance(seconds=59)
        world.one_pass()
    assert len(counting.users_asked()) <= 210, "in an hour each is searched for twice at most"
    for _ in range(10):
        for name in names:
            world.ledger.report(name, 1)
        world.clock.advance(seconds=1)
        world.one_pass()
    assert len(counting.users_asked()) <= 10 * 3


@pytest.mark.parametrize("way", ["report", "webhook"])
def test_a_user_who_is_created_late_is_adopted_soon(world, counting, way):
    world.ledger.report("bob", gib(1))
    for _ in range(30):
        world.clock.advance(seconds=59)
        world.one_pass()
    world.panel.take_webhooks()
    world.panel.create_user("bob", data_limit=gib(10))
    if way == "webhook":
        deliver(world, world.panel.take_webhooks())
        world.run(world.bridge.reconciler._settle_batch(Urgency.CROSSING))
        assert world.account("bob")
    else:
        world.ledger.report("bob", gib(1))
        world.one_pass()
    world.ledger.report("bob", gib(2))
    world.one_pass()
    assert limit(world, "bob") == (8 if way == "webhook" else 7), "all since the creation"


def test_a_new_user_of_another_case_is_found_at_once_by_its_webhook(world, counting):
    world.ledger.report("BOB", gib(1))
    for _ in range(30):
        world.clock.advance(seconds=59)
        world.one_pass()
    world.panel.take_webhooks()
    world.panel.create_user("bob", data_limit=gib(10))
    deliver(world, world.panel.take_webhooks())
    world.run(world.bridge.reconciler._settle_batch(Urgency.CROSSING))
    world.ledger.report("BOB", gib(2))
    world.one_pass()
    assert limit(world, "bob") == 8


@pytest.mark.parametrize("status", [400, 413, 414, 422])
def test_a_list_that_is_refused_is_halved_and_one_name_set_aside(world, status):
    world.transport._inner = Refusing(world.transport._inner, "user030", status)
    for number in range(50):
        world.panel.create_user(f"user{number:03}", data_limit=gib(10))
        world.ledger.report(f"user{number:03}", gib(2))
    world.one_pass()
    shown = [limit(world, f"user{number:03}") for number in range(50)]
    assert shown.count(8) == 49
    assert shown[30] == 10
    (warning,) = [world.bridge.reconciler.set_aside.warning]
    assert "user030" in warning
    assert str(status) in warning
    world.transport._inner.name = "nobody"
    world.one_pass()
    assert limit(world, "user030") == 8
    assert world.bridge.reconciler.set_aside.warning is None


@pytest.mark.parametrize("status", [404, 413, 414])
def test_lists_that_are_refused_whatever_is_in_them_set_nobody_aside(world, status):
    app = create_simulator_app(world.panel)
    world.transport._inner = httpx.ASGITransport(app)
    world.transport._inner = RefusingLists(world.transport._inner, status)
    for number in range(20):
        world.panel.create_user(f"user{number:03}", data_limit=gib(10))
        world.ledger.report(f"user{number:03}", gib(2))
    world.one_pass()
    assert [limit(world, f"user{number:03}") for number in range(20)] == [8] * 20
    assert world.bridge.reconciler.set_aside.warning is None


class Refusing(httpx.AsyncBaseTransport):
    """Refuses whatever asks for one user."""

    def __init__(self, inner, name, status):
        self.inner, self.name, self.status = inner, name, status

    async def handle_async_request(self, request):
        names = request.url.params.get_list("username")
        if request.method == "GET" and (
            self.name in names or request.url.path.endswith(f"/{self.name}")
        ):
            return httpx.Response(self.status, json={"detail": "no"})
        return await self.inner.handle_async_request(request)


class RefusingLists(httpx.AsyncBaseTransport):
    """Refuses every list of named users."""

    def __init__(self, inner, status):
        self.inner, self.status = inner, status

    async def handle_async_request(self, request):
        if request.url.params.get_list("username"):
            return httpx.Response(self.status, json={"detail": "no"})
        return await self.inner.handle_async_request(request)
