"""One user whom the bridge cannot read stops none of the others, and is left as it is."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.world import World


class Twisting(httpx.AsyncBaseTransport):
    """Changes one user in every answer that shows it."""

    def __init__(self, inner):
        self.inner = inner
        self.changes = {}
        self.without = ()

    async def handle_async_request(self, request):
        response = await self.inner.handle_async_request(request)
        if not response.is_success:
            return response
        if request.method != "GET" or not request.url.path.startswith("/api/user"):
            return response
        data = json.loads(await response.aread())
        for user in data.get("users", [data]):
            if user.get("username") == "odd":
                user.update(self.changes)
                for field in self.without:
                    user.pop(field)
        return httpx.Response(response.status_code, json=data)


@pytest.fixture
def world(tmp_path):
    opened = World(tmp_path)
    opened.transport._inner = Twisting(opened.transport._inner)
    for name in ("alice", "odd", "zoe"):
        opened.panel.create_user(name, data_limit=gib(10))
    yield opened
    opened.close()


def limits(world):
    return [world.panel.get_user(name)["data_limit"] / gib(1) for name in ("alice", "odd", "zoe")]


def report_all(world, amount):
    for name in ("alice", "odd", "zoe"):
        world.ledger.report(name, gib(amount))


ODD = [
    {"data_limit": 2**60 + 1},
    {"data_limit": 2**62},
    {"data_limit": -5},
    {"data_limit": 1e10},
    {"data_limit": "10737418240"},
    {"expire": "2027-01-01T00:00:00Z"},
    {"expire": 2**63},
    {"status": "frozen"},
    {"used_traffic": -1},
    {"used_traffic": None},
    {"lifetime_used_traffic": 0.5},
    {"data_limit_reset_strategy": "fortnight"},
    {"created_at": "yesterday"},
    {"next_plan": {"data_limit": "x"}},
    {"next_plan": [1]},
    {"admin": "somebody"},
]


@pytest.mark.parametrize("changes", ODD, ids=repr)
@pytest.mark.parametrize("was_known", [True, False])
def test_it_is_set_aside_once_and_taken_up_again(world, changes, was_known):
    if was_known:
        report_all(world, 1)
        world.one_pass()
    world.transport._inner.changes = changes
    report_all(world, 2)
    before = world.bridge.store.accounts.get("odd")
    for _ in range(3):
        world.one_pass()
    left = 7 if was_known else 8
    assert limits(world) == [left, 9 if was_known else 10, left]
    assert world.bridge.reconciler.health.outage.reason is None
    assert world.bridge.store.suspension.reasons == ()
    assert world.bridge.store.accounts.get("odd") == before
    assert [each.username for each in world.bridge.store.unknown_names.all()] == []
    kinds = [
        each.event.kind for each in world.bridge.store.events.newest(username="odd", limit=100)
    ]
    assert kinds.count("set_aside") == 1
    world.restart()
    world.transport._inner.changes = changes
    world.one_pass()
    assert "1 users cannot be read" in world.bridge.reconciler.set_aside.warning
    assert world.bridge.metrics.registry.get_sample_value("bridge_set_aside_users") == 1
    kinds = [
        each.event.kind for each in world.bridge.store.events.newest(username="odd", limit=100)
    ]
    assert kinds.count("set_aside") == 1
    world.transport._inner.changes = {}
    world.one_pass()
    assert limits(world) == [left] * 3
    assert world.bridge.reconciler.set_aside.warning is None
    assert world.bridge.metrics.registry.get_sample_value("bridge_set_aside_users") == 0


@pytest.mark.parametrize("field", ["status", "used_traffic", "data_limit"])
def test_a_missing_field_is_as_odd(world, field):
    world.transport._inner.without = (field,)
    report_all(world, 2)
    world.one_pass()
    assert limits(world) == [8, 10, 8]


def test_a_user_the_panel_fails_at_is_set_aside_too(world):
    report_all(world, 1)
    world.one_pass()
    world.panel.users["odd"].created_at = None
    report_all(world, 2)
    world.one_pass()
    assert world.panel.users["alice"].data_limit == world.panel.users["zoe"].data_limit == gib(7)
    assert "the panel fails at it (500)" in world.bridge.reconciler.set_aside.warning


def test_a_deleted_user_is_set_aside_no_more(world):
    world.transport._inner.changes = {"status": "frozen"}
    report_all(world, 1)
    world.one_pass()
    world.panel.delete_user("odd")
    world.one_pass()
    assert world.bridge.reconciler.set_aside.warning is None
    assert [each.username for each in world.bridge.store.unknown_names.all()] == ["odd"]


def test_one_odd_name_or_admin_of_a_page_is_left_out(world):
    panel = world.bridge.panel
    world.transport._inner.changes = {"username": None}
    assert world.run(panel.usernames(offset=0, limit=10)) == ["alice", "", "zoe"]
