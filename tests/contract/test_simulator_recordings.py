"""A simulated Marzban answers with the statuses, keys and types that a real one was recorded with."""

from __future__ import annotations

import httpx
import pytest

from marzban_bridge.simulator.http.app import create_simulator_app
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from tests.recordings.panels import MARZBAN, RECORDINGS, Answer, shape
from tests.support.clocks import ManualClock

DAY = 86400
PLAN = {
    "data_limit": 5_000_000_000,
    "expire": 0,
    "add_remaining_traffic": True,
    "fire_on_either": False,
}
ROOT = {"username": "root_env", "password": "root"}


class World:
    """A simulated panel with the users and admins of the recordings, behind its HTTP interface."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.panel = SimulatedPanel(
            clock=self.clock,
            admins={"root_env": ("root", True), "res1": ("one", False), "sudo2": ("two", True)},
        )
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(create_simulator_app(self.panel)),
            base_url="http://panel",
            headers={"user-agent": "recorded"},
        )
        self.now = int(self.clock().timestamp())

    async def ask(self, method: str, path: str, *, as_admin: str | None = "root_env", **kwargs):
        """Send a request and hold the answer to the interface description."""
        if as_admin:
            token = self.panel.sign_in(as_admin, self.panel.admins[as_admin].password)
            kwargs["headers"] = {"authorization": f"Bearer {token}"}
        response = await self.client.request(method, path, **kwargs)
        is_json = response.headers["content-type"] == "application/json"
        body = response.json() if is_json else response.text
        MARZBAN.assert_documented(method, path, response.status_code, body)
        return Answer(response.status_code, body)

    async def create_alice(self):
        body = {
            "username": "alice",
            "proxies": {"vless": {}, "vmess": {}, "shadowsocks": {}},
            "inbounds": {},
            "data_limit": 10_000_000_000,
            "expire": self.now + 30 * DAY,
            "note": "n1",
            "next_plan": PLAN,
        }
        return await self.ask("POST", "/api/user", json=body)

    def event(self, action: str) -> Answer:
        """Return the webhook body of the only event of that action."""
        return Answer(
            200, [event for event in self.panel.take_webhooks() if event["action"] == action]
        )


async def user_object(world):
    return await world.create_alice()


async def user_object_get(world):
    await world.create_alice()
    return await world.ask("GET", "/api/user/alice")


async def users_page(world):
    await world.create_alice()
    return await world.ask("GET", "/api/users", params={"username": "alice"})


async def user_usage(world):
    await world.create_alice()
    return await world.ask("GET", "/api/user/alice/usage")


async def user_object_owned(world):
    body = {"username": "mine1", "proxies": {"vless": {}}, "data_limit": 60_000_000_000}
    return await world.ask("POST", "/api/user", as_admin="res1", json=body)


async def admins(world):
    return await world.ask("GET", "/api/admins")


async def system(world):
    return await world.ask("GET", "/api/system")


async def token_ok(world):
    return await world.ask("POST", "/api/admin/token", as_admin=None, data=ROOT)


async def token_json_body(world):
    return await world.ask("POST", "/api/admin/token", as_admin=None, json=ROOT)


async def token_missing_pw(world):
    form = {"username": "root_env"}
    return await world.ask("POST", "/api/admin/token", as_admin=None, data=form)


async def token_wrong_pw(world):
    return await world.ask("POST", "/api/admin/token", as_admin=None, data=ROOT | {"password": "x"})


async def token_unknown(world):
    return await world.ask("POST", "/api/admin/token", as_admin=None, data=ROOT | {"username": "x"})


async def error_no_token(world):
    return await world.ask("GET", "/api/admin", as_admin=None)


async def error_bad_token(world):
    headers = {"authorization": "Bearer nonsense"}
    return await world.ask("GET", "/api/admin", as_admin=None, headers=headers)


async def error_not_allowed(world):
    await world.create_alice()
    return await world.ask("GET", "/api/user/alice", as_admin="res1")


async def error_no_such_user(world):
    return await world.ask("GET", "/api/user/nobody")


async def error_user_exists(world):
    await world.create_alice()
    return await world.create_alice()


async def error_sort(world):
    return await world.ask("GET", "/api/users", params={"sort": "bogus"})


async def error_data_limit_as_text(world):
    await world.create_alice()
    return await world.ask("PUT", "/api/user/alice", json={"data_limit": "5"})


async def error_negative_limit(world):
    return await world.ask("GET", "/api/users", params={"limit": -1})


async def error_deleting_the_ownerless(world):
    await world.create_alice()
    return await world.ask("DELETE", "/api/user/alice")


async def subscription_of_alice(world, ending: str):
    world.panel.create_user("alice", data_limit=50_000_000_000)
    url = world.panel.get_user("alice")["subscription_url"]
    return await world.ask("GET", f"{url}{ending}", as_admin=None)


async def sub_info(world):
    return await subscription_of_alice(world, "/info")


async def sub_info_404(world):
    return await subscription_of_alice(world, "x/info")


async def sub_usage(world):
    return await subscription_of_alice(world, "/usage")


async def event_of_creating(world):
    await world.create_alice()
    return world.event("user_created")


async def event_of_updating(world):
    await world.create_alice()
    await world.ask("PUT", "/api/user/alice", json={"data_limit": 20_000_000_000})
    return world.event("user_updated")


async def event_of_deleting(world):
    world.panel.create_user("alice", by="res1")
    await world.ask("DELETE", "/api/user/alice")
    return world.event("user_deleted")


async def event_of_disabling(world):
    world.panel.create_user("alice", data_limit=50_000_000_000)
    await world.ask("PUT", "/api/user/alice", json={"status": "disabled"})
    return world.event("user_disabled")


async def event_of_enabling(world):
    await event_of_disabling(world)
    await world.ask("PUT", "/api/user/alice", json={"status": "active"})
    return world.event("user_enabled")


async def event_of_resetting(world):
    world.panel.create_user("alice", data_limit=50_000_000_000)
    await world.ask("POST", "/api/user/alice/reset")
    return world.event("data_usage_reset")


async def event_of_limiting(world):
    world.panel.create_user("alice", data_limit=1, expire=world.now + 90 * DAY)
    world.panel.users["alice"].used_traffic = 5_000_000_000
    world.panel.review()
    return world.event("user_limited")


async def event_of_expiring(world):
    world.panel.create_user("alice", data_limit=50_000_000_000, expire=world.now - 1)
    world.panel.review()
    return world.event("user_expired")


async def event_of_a_next_plan(world):
    plan = PLAN | {"fire_on_either": True}
    world.panel.create_user("alice", data_limit=10_000_000_000, next_plan=plan)
    world.panel.users["alice"].used_traffic = 12_000_000_000
    world.panel.review()
    return world.event("data_reset_by_next")


async def event_of_a_usage_reminder(world):
    world.panel.create_user("alice", data_limit=6_000_000_000, expire=world.now + 90 * DAY)
    world.panel.users["alice"].used_traffic = 5_000_000_000
    world.panel.review()
    return world.event("reached_usage_percent")


async def event_of_an_expiry_reminder(world):
    world.panel.create_user("alice", data_limit=50_000_000_000, expire=world.now + 2 * DAY)
    world.panel.review()
    return world.event("reached_days_left")


async def event_of_revoking(world):
    world.panel.create_user("alice", data_limit=50_000_000_000, note="secret note")
    url = world.panel.get_user("alice")["subscription_url"]
    await world.ask("GET", url, as_admin=None)
    await world.ask("POST", "/api/user/alice/revoke_sub")
    return world.event("subscription_revoked")


WAYS = {
    "admins": admins,
    "delete-ownerless-user-500": error_deleting_the_ownerless,
    "error-400-sort": error_sort,
    "error-401-bad-token": error_bad_token,
    "error-401-no-token": error_no_token,
    "error-403": error_not_allowed,
    "error-404-user": error_no_such_user,
    "error-409-user": error_user_exists,
    "error-422": error_data_limit_as_text,
    "sub-info": sub_info,
    "sub-info-404": sub_info_404,
    "sub-usage": sub_usage,
    "system": system,
    "token-json-body": token_json_body,
    "token-missing-pw": token_missing_pw,
    "token-ok": token_ok,
    "token-unknown": token_unknown,
    "token-wrong-pw": token_wrong_pw,
    "user-object": user_object,
    "user-object-get": user_object_get,
    "user-object-owned": user_object_owned,
    "user-usage": user_usage,
    "users-page": users_page,
    "users-page-500-negative-limit": error_negative_limit,
    "webhook-data_reset_by_next": event_of_a_next_plan,
    "webhook-data_usage_reset": event_of_resetting,
    "webhook-reached_days_left": event_of_an_expiry_reminder,
    "webhook-reached_usage_percent": event_of_a_usage_reminder,
    "webhook-subscription_revoked": event_of_revoking,
    "webhook-user_created": event_of_creating,
    "webhook-user_deleted": event_of_deleting,
    "webhook-user_disabled": event_of_disabling,
    "webhook-user_enabled": event_of_enabling,
    "webhook-user_expired": event_of_expiring,
    "webhook-user_limited": event_of_limiting,
    "webhook-user_updated": event_of_updating,
}


@pytest.fixture
async def world():
    opened = World()
    async with opened.client:
        yield opened


@pytest.mark.parametrize("name", MARZBAN.names())
async def test_status_keys_and_types_are_as_recorded(world, name):
    answer, real = await WAYS[name](world), MARZBAN.recorded(name)
    assert answer.status == real.status
    assert shape(answer.body) == shape(real.body)


@pytest.mark.parametrize("name", MARZBAN.names())
def test_the_recordings_are_read_as_what_they_are(name):
    """A webhook is an array of one event that names itself."""
    body = MARZBAN.recorded(name).body
    if name.startswith("webhook-"):
        assert [event["action"] for event in body] == [name.removeprefix("webhook-")]
    else:
        assert "action" not in body


def test_every_way_belongs_to_a_recording():
    assert sorted(WAYS) == MARZBAN.names()


@pytest.mark.parametrize("recordings", RECORDINGS.values(), ids=list(RECORDINGS))
def test_the_interface_description_holds_no_texts(recordings):
    def keys_of(value):
        if isinstance(value, dict):
            yield from value
            for name, inner in value.items():
                if name != "properties":
                    yield from keys_of(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from keys_of(inner)

    texts = {"description", "summary", "example", "examples"}
    assert not texts & set(keys_of(recordings.openapi))


def test_an_answer_that_is_not_documented_is_noticed():
    with pytest.raises(AssertionError, match="undocumented"):
        MARZBAN.assert_documented("GET", "/api/admin", 418, {})
    with pytest.raises(Exception, match="'username' is a required property"):
        MARZBAN.assert_documented("GET", "/api/admin", 200, {"is_sudo": True})
    with pytest.raises(AssertionError, match="not in the interface"):
        MARZBAN.assert_documented("GET", "/api/elsewhere", 200, {})
