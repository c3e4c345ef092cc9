"""The simulated PasarGuard's paths: who may do what, API keys, settings, and webhooks by them."""

from __future__ import annotations

import json

import httpx
import pytest

from marzban_bridge.simulator.http.app import create_simulator_app
from marzban_bridge.simulator.http.delivery import deliver_webhooks
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from tests.recordings.panels import PASARGUARD
from tests.support.clocks import ManualClock

GIB = 2**30
RECIPE = {
    "users": {
        **{action: {"scope": 2} for action in ("read", "read_simple", "update", "reset_usage")},
        "activate_next_plan": {"scope": 2},
    },
    "system": {"read": True},
}
UNDOCUMENTED = ("/api/api_key", "/api/user_template", "/api/users/bulk/")
"""Paths that the reduced interface description leaves out."""


class Panel:
    """A simulated panel behind its paths; every documented answer is held to the description."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        admins = {"boss": ("pw", True), "clerk": ("pw", True), "shop": ("pw", False)}
        self.simulated = SimulatedPanel(
            clock=self.clock, kind="pasarguard", admins=admins, database="sqlite"
        )
        self.simulated.create_user("mine", by="shop", data_limit=GIB)
        self.simulated.create_user("other", data_limit=GIB)
        app = create_simulator_app(self.simulated)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://panel")

    def bearer(self, name):
        return {"authorization": f"Bearer {self.simulated.sign_in(name, 'pw')}"}

    async def ask(self, method, path, body=None, *, by="boss", headers=None):
        answer = await self.client.request(
            method, path, json=body, headers=self.bearer(by) if headers is None else headers
        )
        found = answer.json() if answer.content else None
        if not path.startswith(UNDOCUMENTED):
            PASARGUARD.assert_documented(method, path.partition("?")[0], answer.status_code, found)
        return answer.status_code, found

    async def status(self, method, path, body=None, **options):
        return (await self.ask(method, path, body, **options))[0]


@pytest.fixture
async def panel():
    opened = Panel()
    async with opened.client:
        yield opened


class TestPermissions:
    """Roles and scopes: what is not allowed is refused by its name."""

    async def test_an_operator_sees_and_changes_its_own_users(self, panel):
        assert await panel.status("GET", "/api/user/mine", by="shop") == 200
        assert await panel.status("PUT", "/api/user/mine", {}, by="shop") == 200
        assert await panel.status("GET", "/api/user/other", by="shop") == 404
        assert await panel.status("PUT", "/api/user/other", {}, by="shop") == 404
        for path in ("/api/users", "/api/users/simple"):
            _, page = await panel.ask("GET", path, by="shop")
            assert [user["username"] for user in page["users"]] == ["mine"]
        _, system = await panel.ask("GET", "/api/system", by="shop")
        assert system["total_user"] == 1

    async def test_what_a_role_does_not_allow_is_named(self, panel):
        assert await panel.ask("GET", "/api/admins", by="shop") == (
            403,
            {"detail": "Permission denied: admins.read"},
        )
        assert await panel.ask("POST", "/api/users/reset", by="shop") == (
            403,
            {"detail": "Permission denied: users.reset_usage requires scope=all"},
        )
        assert await panel.status("POST", "/api/users/reset", by="clerk") == 200

    async def test_a_role_of_ones_own_may_do_what_it_says(self, panel):
        _, role = await panel.ask(
            "POST", "/api/admin-role", {"name": "bridge", "permissions": RECIPE}
        )
        new = {"username": "bridge", "password": "pw", "role_id": role["id"]}
        assert await panel.status("POST", "/api/admin", new) == 201
        assert await panel.status("POST", "/api/admin", new) == 409
        assert await panel.status("POST", "/api/admin-role", {"name": "bridge"}) == 409
        assert await panel.status("POST", "/api/admin-role", {"name": "b" * 65}) == 422
        _, me = await panel.ask("GET", "/api/admin", by="bridge")
        assert me["role"]["permissions"]["users"]["update"] == {"scope": 2}
        assert me["role"]["permissions"]["admins"] is None
        assert me["role"]["permissions"]["users"]["delete"] is None
        assert await panel.status("PUT", "/api/user/other", {}, by="bridge") == 200
        assert await panel.status("DELETE", "/api/user/other", by="bridge") == 403

    async def test_an_admin_over_its_quota_reads_and_writes_nothing(self, panel):
        assert await panel.status("PUT", "/api/admin/shop", {"data_limit": 5}) == 200
        panel.simulated.use_traffic("mine", 5)
        panel.simulated.review()
        assert await panel.status("GET", "/api/user/mine", by="shop") == 200
        assert await panel.ask("PUT", "/api/user/mine", {}, by="shop") == (
            403,
            {"detail": "Admin is limited — write actions blocked"},
        )
        _, page = await panel.ask("GET", "/api/admins")
        assert (page["active"], page["limited"]) == (2, 1)
        status, shop = await panel.ask("POST", "/api/admin/shop/reset")
        assert (status, shop["status"], shop["lifetime_used_traffic"]) == (200, "active", 5)

    async def test_a_disabled_admin_is_told_so(self, panel):
        signed_in = panel.bearer("shop")
        assert await panel.status("PUT", "/api/admin/shop", {"status": "disabled"}) == 200
        refusal = (403, {"detail": "your account has been disabled"})
        assert await panel.ask("GET", "/api/admin", headers=signed_in) == refusal
        form = {"username": "shop", "password": "pw"}
        answer = await panel.client.post("/api/admin/token", data=form)
        assert (answer.status_code, answer.json()) == refusal

    async def test_an_admins_users_can_be_suspended_and_resumed(self, panel):
        assert await panel.status("POST", "/api/admin/shop/users/disable") == 200
        assert (await panel.ask("GET", "/api/user/mine"))[1]["status"] == "disabled"
        assert await panel.status("POST", "/api/admin/shop/users/activate") == 200
        assert (await panel.ask("GET", "/api/user/mine"))[1]["status"] == "active"
        assert await panel.status("POST", "/api/admin/nobody/users/disable") == 404


class TestApiKeys:
    """A key in place of a password, by either header, until it is worth nothing any more."""

    async def make(self, panel, by="boss", **fields):
        status, made = await panel.ask("POST", "/api/api_key", {"name": "bridge"} | fields, by=by)
        assert status == 201
        return made

    async def test_it_opens_the_panel_by_either_header(self, panel):
        key = (await self.make(panel))["api_key"]
        assert key.startswith("pg_key_")
        for headers in ({"x-api-key": key}, {"authorization": f"ApiKey {key}"}):
            status, me = await panel.ask("GET", "/api/admin", headers=headers)
            assert (status, me["username"], me["role"]["is_owner"]) == (200, "boss", True)
        _, listed = await panel.ask("GET", "/api/api_keys")
        assert listed["total"] == 1
        assert key not in str(listed)

    async def test_one_with_fewer_permissions_is_no_owners(self, panel):
        made = await self.make(panel, inherit_permissions=False, permissions=RECIPE)
        headers = {"x-api-key": made["api_key"]}
        _, me = await panel.ask("GET", "/api/admin", headers=headers)
        assert (me["username"], me["role"]["is_owner"]) == ("boss", False)
        assert await panel.status("PUT", "/api/user/mine", {}, headers=headers) == 200
        assert (await panel.ask("GET", "/api/admins", headers=headers))[0] == 403
        assert panel.simulated.take_webhooks()[-1]["by"]["username"] == "boss"

    async def test_nobody_hands_out_more_than_it_has(self, panel):
        too_much = {"name": "k", "inherit_permissions": False, "permissions": RECIPE}
        by = "clerk"
        _, role = await panel.ask(
            "POST",
            "/api/admin-role",
            {
                "name": "keys",
                "permissions": {
                    "api_keys": {"create": True},
                    "users": {"read": {"scope": 1}},
                },
            },
        )
        assert await panel.status("PUT", "/api/admin/clerk", {"role_id": role["id"]}) == 200
        status, refusal = await panel.ask("POST", "/api/api_key", too_much, by=by)
        assert status == 403
        assert refusal["detail"] == "You don't have the 'read' permission on 'users'"

    @pytest.mark.parametrize("end", ["revoked", "expired", "off", "deleted", "admin disabled"])
    async def test_one_that_has_ended_opens_nothing(self, panel, end):
        made = await self.make(panel, by="clerk", expire_date="2099-01-01T00:00:00Z")
        headers, path = {"x-api-key": made["api_key"]}, f"/api/api_key/{made['id']}"
        assert await panel.status("GET", "/api/admin", headers=headers) == 200
        match end:
            case "revoked":
                _, anew = await panel.ask("POST", f"{path}/revoke")
                new_headers = {"x-api-key": anew["api_key"]}
                assert await panel.status("GET", "/api/admin", headers=new_headers) == 200
            case "expired":
                panel.clock.advance(days=365 * 100)
            case "off":
                assert await panel.status("PATCH", path, {"status": "disabled"}) == 200
            case "deleted":
                assert await panel.status("DELETE", path) == 204
            case _:
                assert await panel.status("PUT", "/api/admin/clerk", {"status": "disabled"}) == 200
        assert await panel.ask("GET", "/api/admin", headers=headers) == (
            401,
            {"detail": "Could not validate credentials"},
        )

    async def test_a_bad_one_is_not_made(self, panel):
        await self.make(panel)
        assert await panel.status("POST", "/api/api_key", {"name": "bridge"}) == 409
        assert await panel.status("POST", "/api/api_key", {}) == 422
        past = {"name": "k", "expire_date": "2001-01-01T00:00:00Z"}
        assert await panel.status("POST", "/api/api_key", past) == 422
        assert await panel.status("PATCH", "/api/api_key/9", {}) == 404


class TestUsers:
    """Paths that Marzban has not, and bodies that are none."""

    @pytest.mark.parametrize(("body", "status"), [(b"{", 422), (b"[]", 422), (b"\xd5", 400)])
    async def test_a_body_that_is_no_object_is_refused(self, panel, body, status):
        for method, path in (("POST", "/api/user"), ("PUT", "/api/settings")):
            answer = await panel.client.request(
                method, path, content=body, headers=panel.bearer("boss")
            )
            assert answer.status_code == status

    async def test_a_user_has_a_number_and_two_paths_by_name(self, panel):
        for path in ("by-id/1", "by-username/mine", "mine"):
            _, user = await panel.ask("GET", f"/api/user/{path}".replace("by-username/", ""))
            assert user["username"] == "mine"
        answer = await panel.client.get("/api/user/by-username/mine", headers=panel.bearer("boss"))
        assert answer.json()["id"] == 1
        assert await panel.status("GET", "/api/user/by-id/99") == 404
        assert await panel.status("GET", "/api/user/by-id/x") == 422

    async def test_the_dashboards_switch(self, panel):
        path = "/api/user/by-id/1/disabled"
        assert (await panel.ask("PUT", path, {"disabled": True}))[1]["status"] == "disabled"
        assert (await panel.ask("PUT", path, {"disabled": False}))[1]["status"] == "active"
        assert await panel.status("PUT", path, {}) == 422

    async def test_lists_by_names_and_numbers(self, panel):
        for query, expected in (
            ("usernames=mine&usernames=nobody", ["mine"]),
            ("username=mine&usernames=other", []),
            ("username=mine&usernames=mine", ["mine"]),
            ("ids=2", ["other"]),
            ("limit=-1", ["mine", "other"]),
            ("status=active&status=limited", ["mine", "other"]),
            ("admin=shop", ["mine"]),
        ):
            _, page = await panel.ask("GET", f"/api/users?{query}")
            assert [user["username"] for user in page["users"]] == expected, query
            assert {user["subscription_url"] for user in page["users"]} <= {""}
        assert await panel.status("GET", "/api/users?ids=x") == 422
        _, page = await panel.ask("GET", "/api/users?load_sub=true")
        assert all(user["subscription_url"] for user in page["users"])
        _, page = await panel.ask("GET", "/api/users/simple?limit=1")
        assert page == {"users": [{"id": 1, "username": "mine"}], "total": 2}

    async def test_a_negative_limit_is_nothing_for_mysql(self, panel):
        panel.simulated.database = "mysql"
        assert await panel.ask("GET", "/api/users?limit=-1") == (
            503,
            {"detail": "Database temporarily unavailable"},
        )

    async def test_many_at_once(self, panel):
        panel.simulated.use_traffic("mine", 5)
        assert await panel.ask("POST", "/api/users/bulk/reset", {"ids": [1]}) == (
            200,
            {"users": ["mine"], "count": 1},
        )
        assert await panel.status("POST", "/api/users/bulk/reset", {"ids": []}) == 422
        assert await panel.status("POST", "/api/users/bulk/data_limit", {"amount": GIB}) == 200
        assert (await panel.ask("GET", "/api/user/other"))[1]["data_limit"] == 2 * GIB
        assert await panel.status("POST", "/api/users/bulk/data_limit", {}) == 422

    async def test_a_template_is_a_next_plan(self, panel):
        new = {"name": "month", "group_ids": [1], "data_limit": 7 * GIB}
        status, template = await panel.ask("POST", "/api/user_template", new)
        assert status == 201
        assert (await panel.ask("GET", "/api/user_templates"))[1] == [template]
        assert await panel.ask("GET", "/api/user_template/1") == (200, template)
        assert await panel.status("GET", "/api/user_template/2") == 404
        plan = {"next_plan": {"user_template_id": template["id"]}}
        assert await panel.status("PUT", "/api/user/mine", plan) == 200
        status, fired = await panel.ask("POST", "/api/user/mine/active_next")
        assert (status, fired["data_limit"]) == (200, 7 * GIB)

    async def test_a_subscription_says_where_it_was_asked_from(self, panel):
        url = panel.simulated.get_user("mine")["subscription_url"]
        status, shown = await panel.ask("GET", f"{url}/info", headers={})
        assert (status, shown["ip"], "note" in shown) == (200, "127.0.0.1", False)


class TestWebhookSettings:
    """Where webhooks go is set by request."""

    async def set(self, panel, **fields):
        webhook = {"enable": True, "timeout": 180, "recurrent": 3, "webhooks": []} | fields
        return await panel.ask("PUT", "/api/settings", {"webhook": webhook})

    async def deliver(self, panel, statuses):
        seen = []

        def answer(request):
            seen.append((request.url.host, request.headers["x-webhook-secret"], request.content))
            return httpx.Response(statuses[request.url.host])

        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            return await deliver_webhooks(panel.simulated, client), seen

    async def test_each_receiver_gets_each_batch_and_one_of_them_is_enough(self, panel):
        hooks = [{"url": f"http://{name}/", "secret": f"of {name}"} for name in ("one", "two")]
        status, settings = await self.set(panel, webhooks=hooks)
        assert (status, settings["webhook"]["webhooks"]) == (200, hooks)
        assert await panel.ask("GET", "/api/settings") == (200, settings)
        panel.simulated.take_webhooks()
        panel.simulated.create_user("new")
        count, seen = await self.deliver(panel, {"one": 500, "two": 204})
        assert (count, [each[:2] for each in seen]) == (1, [("one", "of one"), ("two", "of two")])
        assert [event["username"] for event in json.loads(seen[0][2])] == ["new"]
        panel.simulated.create_user("newer")
        count, _ = await self.deliver(panel, {"one": 301, "two": 500})
        assert count == 0

    async def test_switched_off_nothing_is_kept(self, panel):
        panel.simulated.take_webhooks()
        assert (await self.set(panel, enable=False))[0] == 200
        panel.simulated.create_user("new")
        assert panel.simulated.take_webhooks() == []

    @pytest.mark.parametrize(
        "wrong",
        [{"timeout": 0}, {"recurrent": None}, {"webhooks": [{"url": "x"}]}, {"webhooks": []}],
    )
    async def test_settings_that_cannot_be_are_refused(self, panel, wrong):
        assert (await self.set(panel, **wrong))[0] == 422

    async def test_other_settings_stay(self, panel):
        before = await panel.ask("GET", "/api/settings")
        assert await panel.ask("PUT", "/api/settings", {"telegram": None}) == before
        assert await panel.status("GET", "/api/settings", by="shop") == 403
