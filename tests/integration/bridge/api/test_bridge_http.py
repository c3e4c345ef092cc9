"""The whole bridge over HTTP: who may ask what, what is answered, and what is changed by it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import httpx
import pytest

from marzban_bridge.api.access.sign_ins import SignInThrottle
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.bridge_world import PASSWORDS, RESET_ALL, SECRET, BridgeWorld, until
from tests.support.bridge.fake_ledger import ADMIN_KEY
from tests.support.collector.collectors import ADMIN_KEY as COLLECTOR_KEY
from tests.support.collector.collectors import CollectorWorld, running, wire


@pytest.fixture
async def world(tmp_path):
    async with BridgeWorld(tmp_path).serving() as served:
        yield served


class TestSigningIn:
    """`POST /api/admin/token` says what the panel says, as far as it is asked at all."""

    async def test_the_token_of_the_panel_is_passed_on_and_works(self, world):
        answer = await world.sign_in("shop", PASSWORDS["shop"])
        assert answer.status_code == 200
        token = answer.json()["access_token"]
        listed = await world.client.get("/v1/users", headers={"authorization": f"Bearer {token}"})
        assert listed.status_code == 200

    async def test_a_wrong_password_is_refused_in_the_panels_words(self, world):
        answer = await world.sign_in("shop", "a guess")
        assert answer.status_code == 401
        assert answer.json() == {"detail": "Incorrect username or password"}

    @pytest.mark.parametrize("content_type", ["application/json", "text/plain", ""])
    async def test_anything_but_a_form_is_refused_as_by_the_panel(self, world, content_type):
        answer = await world.client.post(
            "/api/admin/token",
            content=b'{"username": "shop", "password": "x"}',
            headers={"content-type": content_type},
        )
        assert answer.status_code == 422

    async def test_a_content_type_that_is_none_is_refused_here(self, world):
        answer = await world.client.post(
            "/api/admin/token",
            content=b"x",
            headers={"content-type": "f\u00f6rm".encode("latin-1")},
        )
        assert answer.status_code == 400

    async def test_a_form_without_end_is_not_read_to_its_end(self, world):
        sent = 0

        async def endless():
            nonlocal sent
            while True:
                sent += 1024
                yield b"x" * 1024

        answer = await world.client.post("/api/admin/token", content=endless())
        assert answer.status_code == 413
        assert sent <= 32 * 1024
        assert world.faults.count("POST", "/api/admin/token") == world.own_sign_ins

    async def test_a_panel_that_is_down_is_no_refusal(self, world):
        world.faults.is_down = True
        answer = await world.sign_in("shop", PASSWORDS["shop"])
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0

    async def test_guesses_soon_have_to_wait_and_do_not_reach_the_panel(self, world):
        for _ in range(10):
            assert (await world.sign_in("shop", "a guess")).status_code == 401
        asked = world.faults.count("POST", "/api/admin/token")
        answer = await world.sign_in("shop", PASSWORDS["shop"])
        assert answer.status_code == 429
        assert 0 < int(answer.headers["retry-after"]) <= 6
        assert world.faults.count("POST", "/api/admin/token") == asked
        world.clock.advance(seconds=6)
        assert (await world.sign_in("shop", PASSWORDS["shop"])).status_code == 200

    async def test_many_guesses_at_once_are_no_more_than_one_after_another(self, world):
        answers = await asyncio.gather(*(world.sign_in("shop", str(n)) for n in range(50)))
        assert sorted(answer.status_code for answer in answers) == [401] * 10 + [429] * 40

    async def test_who_knows_the_password_never_waits(self, world):
        for _ in range(40):
            assert (await world.sign_in("shop", PASSWORDS["shop"])).status_code == 200

    async def test_a_panel_that_is_down_uses_up_nobodys_guesses(self, world):
        world.faults.is_down = True
        for _ in range(20):
            assert (await world.sign_in("shop", PASSWORDS["shop"])).status_code == 503
        world.faults.is_down = False
        assert (await world.sign_in("shop", PASSWORDS["shop"])).status_code == 200


class TestTheThrottle:
    """Refused sign-ins are counted per address, in bounded memory."""

    def take(self, throttle, address, times=1, at=0.0):
        return [throttle.take(address, now_seconds=at) for _ in range(times)][-1]

    def test_addresses_do_not_share(self):
        throttle = SignInThrottle(burst=2)
        assert self.take(throttle, "10.0.0.1", 3) > 0
        assert self.take(throttle, "10.0.0.2") == 0

    @pytest.mark.parametrize(
        ("one", "other", "is_same"),
        [
            ("2001:db8::1", "2001:db8::2", True),
            ("2001:db8::1", "2001:db8:0:1::1", False),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
            ("", "testclient", False),
        ],
    )
    def test_a_client_is_an_ipv4_address_or_a_64_of_ipv6(self, one, other, is_same):
        throttle = SignInThrottle(burst=1)
        self.take(throttle, one)
        assert (self.take(throttle, other) > 0) is is_same

    def test_waiting_as_long_as_told_is_enough_and_a_little_less_is_not(self):
        throttle = SignInThrottle(burst=3, refill_seconds=6)
        wait_seconds = self.take(throttle, "a", 4, at=1000.0)
        assert self.take(throttle, "a", at=1000.0 + wait_seconds - 0.1) > 0
        assert self.take(throttle, "a", at=1000.0 + wait_seconds) == 0

    def test_a_clock_that_goes_back_neither_forgives_nor_locks_out_for_longer(self):
        throttle = SignInThrottle(burst=1, refill_seconds=6)
        self.take(throttle, "a", at=1000.0)
        assert 0 < self.take(throttle, "a", at=10.0) <= 6

    def test_no_more_addresses_are_remembered_than_allowed(self):
        throttle = SignInThrottle(remembered=3)
        for n in range(100):
            throttle.take(str(n), now_seconds=0.0)
        assert len(throttle._buckets) == 3


GUARDED = [
    ("GET", "/api/admin/usage/alice"),
    ("GET", "/api/admin/usage/alice/detailed"),
    ("POST", "/api/admin/usage/reset/alice"),
    ("GET", "/v1/users"),
    ("GET", "/v1/events?username=alice"),
    ("GET", "/v1/plan"),
    ("POST", "/v1/users/alice/reset"),
    ("POST", "/v1/reset-all"),
    ("POST", "/v1/cleanup?days=30"),
]
FOR_SUDO = [GUARDED[5], GUARDED[7], GUARDED[8], ("GET", "/v1/events")]


@pytest.mark.parametrize(("method", "path"), GUARDED)
class TestWhoMayAskAtAll:
    """Nothing about users is told to, or done for, anybody the panel does not know."""

    @pytest.mark.parametrize(
        "authorization",
        [
            None,
            b"Bearer",
            b"Bearer wrong",
            b"Basic cm9vdDpyb290",
            b"Bearer tok\xe9n",
            b"Bearer a\tb",
            b"Bearer " + b"x" * 5000,
        ],
    )
    async def test_strangers_are_refused(self, world, method, path, authorization):
        before = world.panel.get_user("alice")
        headers = {"authorization": authorization} if authorization else {}
        answer = await world.client.request(method, path, headers=headers, json=RESET_ALL)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert isinstance(answer.json()["detail"], str)
        assert world.panel.get_user("alice") == before
        assert world.bridge.store.events.newest() == []

    async def test_nobody_is_let_in_while_the_panel_cannot_be_asked(self, world, method, path):
        headers = world.as_("boss")
        world.faults.is_down = True
        answer = await world.client.request(method, path, headers=headers, json=RESET_ALL)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert "panel" in answer.json()["detail"]


@pytest.mark.parametrize(("method", "path"), FOR_SUDO)
async def test_what_concerns_everybody_is_for_sudo_admins(world, method, path):
    answer = await world.ask(method, path, by="shop", json=RESET_ALL)
    assert answer.status_code == 403
    assert world.bridge.store.events.newest() == []


class TestUsage:
    """Usage is everything of the period: the panel's own plus external."""

    @pytest.mark.parametrize("by", ["boss", "root", "shop"])
    async def test_it_is_one_number(self, world, by):
        await world.use("alice", external_bytes=gib(7), panel_bytes=gib(1))
        assert await world.get("/api/admin/usage/alice", by=by) == gib(8)
        answer = await world.ask("GET", "/api/admin/usage/ALICE", by=by)
        assert answer.status_code == 404, "the panel's names are case-sensitive"

    async def test_a_user_without_external_traffic_has_used_what_the_panel_says(self, world):
        world.panel.use_traffic("bob", gib(2))
        assert await world.get("/api/admin/usage/bob") == gib(2)
        shown = await world.get("/api/admin/usage/bob/detailed")
        assert shown["servers"] == []
        assert (shown["total_usage_bytes"], shown["traffic_limit_bytes"]) == (gib(2), gib(10))

    async def test_in_detail_it_tells_the_origins_the_quota_and_what_was_published(self, world):
        await world.use("alice", external_bytes=gib(7), panel_bytes=gib(1))
        shown = await world.get("/api/admin/usage/alice/detailed")
        assert shown | {"period_started_at": None} == {
            "username": "alice",
            "kind": "user",
            "marzban_usage_bytes": gib(1),
            "marzban_usage_gb": 1.0,
            "external_usage_bytes": gib(7),
            "external_usage_gb": 7.0,
            "external_raw_usage_bytes": gib(7),
            "external_raw_usage_gb": 7.0,
            "total_usage_bytes": gib(8),
            "traffic_limit_bytes": gib(10),
            "traffic_limit_gb": 10.0,
            "limit_check": True,
            "percentage_used": 80.0,
            "users": None,
            "status": "active",
            "admin": "shop",
            "published_limit_bytes": gib(3),
            "period_started_at": None,
            "is_disabled_by_bridge": False,
            "is_held": False,
            "servers": None,
        }

    async def test_what_counts_is_told_from_the_bytes_that_were_used(self, world):
        world.ledger.ratio_millis = 2000
        await world.use("alice", external_bytes=gib(3), panel_bytes=gib(1))
        shown = await world.get("/api/admin/usage/alice/detailed")
        assert shown["external_usage_bytes"] == gib(6)
        assert (shown["external_raw_usage_bytes"], shown["external_raw_usage_gb"]) == (gib(3), 3.0)
        assert shown["total_usage_bytes"] == await world.get("/api/admin/usage/alice") == gib(7)
        (listed,) = (await world.get("/v1/users"))["users"]
        assert (listed["external_bytes"], listed["external_raw_bytes"]) == (gib(6), gib(3))
        assert (listed["used_bytes"], listed["used_ratio"]) == (gib(7), 0.7)
        of_admin = await world.get("/api/admin/usage/shop/detailed", kind="admin")
        assert of_admin["external_usage_bytes"] == gib(6)
        assert of_admin["external_raw_usage_bytes"] is None

    @pytest.mark.parametrize("path", ["", "/detailed"])
    @pytest.mark.parametrize(
        ("name", "by", "status"),
        [
            ("carol", "shop", 403),
            ("boss", "shop", 404),
            ("nobody", "boss", 404),
            ("nobody", "shop", 404),
            ("al%2Fice", "boss", 404),
            ("%00", "boss", 404),
            ("%F0%9F%92%A9", "boss", 404),
            ("..%2F..", "boss", 404),
            ("x" * 3000, "boss", 404),
        ],
    )
    async def test_who_is_not_there_or_not_ones_own_is_not_shown(
        self, world, path, name, by, status
    ):
        answer = await world.ask("GET", f"/api/admin/usage/{name}{path}", by=by)
        assert answer.status_code == status
        assert answer.json()["detail"]

    async def test_an_unknown_kind_is_named(self, world):
        answer = await world.ask("GET", "/api/admin/usage/alice", params={"kind": "group"})
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith("kind:")


class TestServers:
    """Where external traffic was comes from a real collector."""

    async def test_every_server_is_listed_whatever_the_user_is_called(self, tmp_path):
        collector = CollectorWorld(path=tmp_path / "ledger.sqlite3")
        world = BridgeWorld(tmp_path, collector_admin_key=COLLECTOR_KEY)
        names = ("alice", "changes", "under_score", "CaseD")
        for name in names[1:]:
            world.panel.create_user(name)
        async with running(collector), world.serving(httpx.ASGITransport(collector.app)):
            reports = [wire(name, server=s) for name in names for s in ("de-1", "nl-1")]
            assert (await collector.send(reports)).status_code == 200
            store = world.bridge.store
            await until("accounts", lambda: store.counts()["accounts"] == len(names))
            for name in names:
                shown = await world.get(f"/api/admin/usage/{name}/detailed")
                assert shown["external_usage_bytes"] == 60
                if name != "changes":  # the collector's feed has that path; not shown, no failure
                    assert sorted(each["server"] for each in shown["servers"]) == ["de-1", "nl-1"]
                    assert shown["servers"][0]["upload_bytes"] == 10

    async def test_a_cleanup_is_the_collectors_and_leaves_an_event(self, tmp_path):
        collector = CollectorWorld(path=tmp_path / "ledger.sqlite3")
        world = BridgeWorld(tmp_path, collector_admin_key=COLLECTOR_KEY)
        async with running(collector), world.serving(httpx.ASGITransport(collector.app)):
            answer = await world.ask("POST", "/v1/cleanup", params={"days": 30})
            assert answer.status_code == 200
            assert answer.json()
            (event,) = await world.get("/v1/events")
            assert (event["kind"], event["actor"]) == ("cleanup", "boss")
            assert "30 days" in event["text"]

    @pytest.mark.parametrize("days", ["0", "-1", "many", "99999", ""])
    async def test_a_cleanup_of_everything_or_nothing_is_refused(self, world, days):
        answer = await world.ask("POST", "/v1/cleanup", params={"days": days})
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith("days:")

    async def test_a_cleanup_while_the_collector_is_away_says_so(self, world):
        world.ledger.is_down = True
        answer = await world.ask("POST", "/v1/cleanup", params={"days": 30})
        assert answer.status_code == 503
        assert "collector" in answer.json()["detail"]
        assert world.bridge.store.events.newest() == []


class TestResets:
    """A reset begins the period anew on both sides, for exactly whom it was asked."""

    @pytest.mark.parametrize("path", ["/api/admin/usage/reset/alice", "/v1/users/alice/reset"])
    @pytest.mark.parametrize("by", ["boss", "shop"])
    async def test_a_user_begins_anew(self, world, path, by):
        await world.use("alice", external_bytes=gib(7), panel_bytes=gib(4))
        await world.use("bob", external_bytes=gib(5))
        answer = await world.ask("POST", path, by=by)
        assert answer.status_code == 200, answer.text
        assert answer.json() == {
            "username": "alice",
            "kind": "user",
            "total_usage_bytes": 0,
            "users": 1,
        }
        user = world.panel.get_user("alice")
        assert (user["used_traffic"], user["data_limit"]) == (0, gib(10))
        assert await world.get("/api/admin/usage/alice") == 0
        assert await world.get("/api/admin/usage/bob") == gib(5)
        resets = [
            each
            for each in await world.get("/v1/events", username="alice")
            if each["kind"] == "reset"
        ]
        assert [each["actor"] for each in resets] == [by]
        assert resets[0]["before"]
        assert resets[0]["after"]

    @pytest.mark.parametrize(
        ("name", "by", "status"),
        [("carol", "shop", 403), ("nobody", "boss", 404), ("shop", "shop", 403)],
    )
    async def test_a_reset_that_is_not_allowed_changes_nothing(self, world, name, by, status):
        await world.use("carol", external_bytes=gib(2))
        answer = await world.ask("POST", f"/api/admin/usage/reset/{name}", by=by)
        assert answer.status_code == status
        assert await world.get("/api/admin/usage/carol") == gib(2)

    async def test_an_admin_begins_anew_and_its_users_do_not(self, world):
        await world.use("alice", external_bytes=gib(7), panel_bytes=gib(1))
        await world.use("bob", external_bytes=gib(2))
        await world.use("carol", external_bytes=gib(3))
        assert await world.get("/api/admin/usage/shop") == gib(10)
        assert await world.get("/api/admin/usage/shop", by="shop") == gib(10)
        alice = world.panel.get_user("alice") | {"admin": None}
        answer = await world.ask("POST", "/api/admin/usage/reset/shop")
        assert answer.json() == {
            "username": "shop",
            "kind": "admin",
            "total_usage_bytes": 0,
            "users": 2,
        }
        assert world.panel.get_user("alice") | {"admin": None} == alice
        assert await world.get("/api/admin/usage/alice") == gib(8)
        await world.use("bob", external_bytes=gib(1))
        shown = await world.get("/api/admin/usage/shop/detailed", by="shop")
        assert shown["kind"] == "admin"
        assert (shown["marzban_usage_bytes"], shown["external_usage_bytes"]) == (0, gib(1))
        assert (shown["users"], shown["servers"]) == (2, None)

    async def test_a_reset_of_a_user_leaves_the_sum_of_its_admin(self, world):
        await world.use("alice", external_bytes=gib(7))
        await world.ask("POST", "/api/admin/usage/reset/alice")
        assert await world.get("/api/admin/usage/shop") == gib(7)

    async def test_a_name_that_is_both_means_the_user_unless_said_otherwise(self, world):
        world.panel.create_user("shop", by="boss", data_limit=gib(1))
        await world.use("alice", external_bytes=gib(7))
        await world.use("shop", external_bytes=gib(0.5))
        assert await world.get("/api/admin/usage/shop") == gib(0.5)
        assert await world.get("/api/admin/usage/shop", kind="user") == gib(0.5)
        assert await world.get("/api/admin/usage/shop", kind="admin") == gib(7)
        await world.ask("POST", "/api/admin/usage/reset/shop", params={"kind": "admin"})
        assert await world.get("/api/admin/usage/shop") == gib(0.5)
        assert await world.get("/api/admin/usage/shop", kind="admin") == 0
        await world.ask("POST", "/api/admin/usage/reset/shop")
        assert await world.get("/api/admin/usage/shop") == 0

    async def test_a_user_is_no_admin_when_an_admin_is_asked_for(self, world):
        answer = await world.ask("GET", "/api/admin/usage/alice", params={"kind": "admin"})
        assert answer.status_code == 404

    async def test_a_reset_the_panel_could_not_answer_is_finished_later(self, world):
        await world.use("alice", external_bytes=gib(7), panel_bytes=gib(1))
        headers = world.as_("boss")

        async def fail_at_reset(scope, receive, send, inner=world.panel_app):
            if scope["path"].endswith("/alice/reset"):
                world.faults.fail_next()
            await inner(scope, receive, send)

        world.bridge.panel._client._transport = httpx.ASGITransport(fail_at_reset)
        answer = await world.client.post("/v1/users/alice/reset", headers=headers)
        assert answer.status_code == 503
        world.bridge.panel._client._transport = httpx.ASGITransport(world.panel_app)
        await world.bridges.run_once()
        assert await world.get("/api/admin/usage/alice") == 0
        assert world.panel.get_user("alice")["data_limit"] == gib(10)


class TestResetAll:
    """A reset of everybody needs a typed confirmation, and happens wholly or not at all."""

    @pytest.mark.parametrize(
        "body",
        [None, {}, [], {"confirm": ""}, {"confirm": "RESET ALL USERS"}, {"confirm": True}, "yes"],
    )
    async def test_without_the_words_nothing_happens(self, world, body):
        await world.use("alice", external_bytes=gib(1))
        arguments = {} if body is None else {"json": body}
        answer = await world.ask("POST", "/v1/reset-all", **arguments)
        assert answer.status_code == 422
        assert world.faults.count("POST", "/api/users/reset") == 0
        assert await world.get("/api/admin/usage/alice") == gib(1)

    async def test_the_environments_admin_resets_everybody(self, world):
        for name in ("alice", "bob", "carol"):
            await world.use(name, external_bytes=gib(7), panel_bytes=gib(1))
        answer = await world.ask("POST", "/v1/reset-all", by="root", json=RESET_ALL)
        assert answer.json() == {"users": 3}
        await world.bridges.run_once()
        for name in ("alice", "bob", "carol"):
            assert await world.get(f"/api/admin/usage/{name}") == 0
            assert world.panel.get_user(name)["data_limit"] == gib(10)
            kinds = await world.get("/v1/events", username=name)
            assert [e["actor"] for e in kinds if e["kind"] == "reset"] == ["root"]

    async def test_a_sudo_admin_resets_its_own_users(self, world):
        world.panel.create_user("dave", by="boss", data_limit=gib(10))
        await world.use("dave", external_bytes=gib(7))
        await world.use("alice", external_bytes=gib(7))
        answer = await world.ask("POST", "/v1/reset-all", by="boss", json=RESET_ALL)
        assert answer.json() == {"users": 1}
        await world.bridges.run_once()
        assert await world.get("/api/admin/usage/dave") == 0
        assert await world.get("/api/admin/usage/alice") == gib(7)

    @pytest.mark.parametrize("status", [400, 403, 409])
    async def test_when_the_panel_refuses_nobody_is_reset(self, world, status):
        await world.use("alice", external_bytes=gib(7), panel_bytes=gib(1))
        before = world.panel.get_user("alice")

        async def refuse(scope, receive, send):
            if scope["path"] == "/api/users/reset":
                world.faults.fail_next(status=status)
            await world.panel_app(scope, receive, send)

        world.bridge.panel._client._transport = httpx.ASGITransport(refuse)
        answer = await world.ask("POST", "/v1/reset-all", by="root", json=RESET_ALL)
        assert answer.status_code == (403 if status == 403 else 502)
        await world.bridges.run_once()
        assert world.panel.get_user("alice") == before
        assert await world.get("/api/admin/usage/alice") == gib(8)


class TestListings:
    """Who stands how, what happened, and what would be done."""

    async def test_pages_hold_everybody_once(self, world):
        names = [f"user{n:02}" for n in range(7)]
        for name in names:
            world.panel.create_user(name, by="boss")
            world.ledger.report(name, 1)
        await world.bridges.run_once()
        seen, after, pages = [], "", 0
        while after is not None:
            page = await world.get("/v1/users", after=after, limit=3)
            seen += [each["username"] for each in page["users"]]
            after = page["next"]
            pages += 1
        assert seen == names
        assert pages == 3

    async def test_a_reseller_sees_its_own_users_and_no_orphans(self, world):
        for name in ("alice", "carol", "ghost"):
            world.ledger.report(name, gib(1))
        await world.bridges.run_once()
        everybody = await world.get("/v1/users")
        assert [each["username"] for each in everybody["users"]] == ["alice", "carol"]
        assert [each["username"] for each in everybody["orphans"]] == ["ghost"]
        own = await world.get("/v1/users", by="shop")
        assert [each["username"] for each in own["users"]] == ["alice"]
        assert own["orphans"] == []

    @pytest.mark.parametrize("limit", ["0", "1001", "-1", "x"])
    @pytest.mark.parametrize("path", ["/v1/users", "/v1/events"])
    async def test_a_page_has_bounds(self, world, path, limit):
        answer = await world.ask("GET", path, params={"limit": limit})
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith("limit:")

    async def test_events_say_who_when_before_and_after_newest_first(self, world):
        await world.use("alice", external_bytes=gib(11))
        events = await world.get("/v1/events", username="alice", by="shop")
        assert events[0]["kind"] == "limited"
        assert [each["seq"] for each in events] == sorted(
            (each["seq"] for each in events), reverse=True
        )
        newest = events[0]
        assert newest["at"] == world.clock().isoformat()
        assert (newest["username"], newest["actor"]) == ("alice", "bridge")
        assert newest["before"] == f"active, data limit {gib(10)}"
        assert newest["after"].startswith("disabled")

    async def test_a_reseller_reads_only_its_users_events(self, world):
        await world.use("carol", external_bytes=gib(11))
        answer = await world.ask("GET", "/v1/events", params={"username": "carol"}, by="shop")
        assert answer.status_code == 403

    async def test_a_plan_tells_what_would_be_done_and_does_nothing(self, tmp_path):
        async with BridgeWorld(tmp_path, pass_seconds=86400).serving() as world:
            # What runs beside the test has to be done with alice before she is changed.
            passed_at = world.bridge.metrics.last_pass_timestamp_seconds
            await until("the first pass is over", lambda: passed_at._value.get() > 0)
            world.ledger.report("alice", gib(1))
            await until(
                "the report is published",
                lambda: world.panel.get_user("alice")["data_limit"] == gib(9),
            )
            world.panel.modify_user("alice", {"data_limit": gib(20)})
            before, writes = world.panel.get_user("alice"), world.faults.count("PUT")
            planned = await world.get("/v1/plan")
            assert [(each["username"], each["data_limit_bytes"]) for each in planned] == [
                ("alice", gib(19))
            ]
            assert world.panel.get_user("alice") == before
            assert world.faults.count("PUT") == writes
            await world.bridges.run_once()
            assert world.panel.get_user("alice")["data_limit"] == gib(19)
            assert await world.get("/v1/plan") == []


def reset_event(username: str = "alice", **changes: Any) -> dict[str, Any]:
    event = {"username": username, "action": "data_usage_reset", "tries": 0, "send_at": 1.0}
    return event | {"enqueued_at": 1.0, "user": {"username": username}} | changes


class TestWebhooks:
    """The panel's notices are taken from whoever knows the secret, and only as hints."""

    @pytest.mark.parametrize(
        "secret", ["", "wrong", SECRET[:-1], SECRET + "x", SECRET.upper(), b"\xff\xfe"]
    )
    async def test_the_secret_must_be_right(self, world, secret):
        answer = await world.deliver([reset_event()], **{"x-webhook-secret": secret})
        assert answer.status_code == 401
        assert SECRET not in answer.text

    async def test_the_secret_must_be_there(self, world):
        answer = await world.client.post("/webhooks/marzban", json=[reset_event()])
        assert answer.status_code == 401

    @pytest.mark.parametrize("secret", ["", "anything"])
    async def test_without_a_secret_of_ours_nobody_is_believed(self, tmp_path, secret):
        async with BridgeWorld(tmp_path, webhook_secret="").serving() as world:
            answer = await world.deliver([reset_event()], **{"x-webhook-secret": secret})
            assert answer.status_code == 401
            assert "BRIDGE_WEBHOOK_SECRET" in answer.json()["detail"]

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"not json",
            b"{}",
            b"null",
            b'"alice"',
            b"[1]",
            b"[null]",
            b"[{}]",
            b'[{"username": "alice"}]',
            b'[{"username": 1, "action": "data_usage_reset"}]',
            b'[{"username": "alice", "action": null}]',
            b'[{"username": "a\\u0000b", "action": "data_usage_reset"}]',
            b'[{"username": "a\\nb", "action": "data_usage_reset"}]',
            b'[{"username": "\\ud800", "action": "data_usage_reset"}]',
            b'[{"username": "\xff", "action": "data_usage_reset"}]',
            b"[" * 100_000,
            b'[{"username": "alice", "action": "data_usage_reset", "x": NaN}]',
            b'[{"username": "alice", "action": "data_usage_reset", "x": 1e999}]',
        ],
    )
    async def test_what_is_no_array_of_events_is_refused(self, world, body):
        answer = await world.deliver(body)
        assert answer.status_code == 422
        assert isinstance(answer.json()["detail"], str)

    async def test_a_body_without_end_is_not_read_to_its_end(self, world):
        async def endless():
            while True:
                yield b"[" + b" " * 1024 * 1024

        answer = await world.client.post(
            "/webhooks/marzban", content=endless(), headers={"x-webhook-secret": SECRET}
        )
        assert answer.status_code == 413

    @pytest.mark.parametrize(
        "name", ["nobody", "", "' OR 1=1 --", "../../etc/passwd", "\U0001f4a9" * 50, "x" * 100_000]
    )
    async def test_names_nobody_reported_are_ignored(self, world, name):
        await world.use("alice", external_bytes=gib(1))
        answer = await world.deliver([reset_event(name)])
        assert answer.json() == {"events": 1, "hints": 0}
        assert not world.bridge.store.reset_news.is_announced(name)
        assert not world.bridge.store.placement.is_known(name)

    async def test_actions_that_change_nothing_are_no_hints(self, world):
        await world.use("alice", external_bytes=gib(1))
        events = [reset_event(action=a) for a in ("reached_usage_percent", "no_such_action")]
        assert (await world.deliver(events)).json() == {"events": 2, "hints": 0}

    async def test_a_reset_in_the_panel_is_noticed_by_its_webhook(self, tmp_path):
        async with BridgeWorld(tmp_path, pass_seconds=86400).serving() as world:
            await world.use("alice", external_bytes=gib(7), panel_bytes=gib(1))
            world.panel.take_webhooks()
            world.panel.reset_user("alice")
            batch = world.panel.take_webhooks()
            assert (await world.deliver(batch)).json() == {"events": 1, "hints": 1}
            await until(
                "the quota given back",
                lambda: world.panel.get_user("alice")["data_limit"] == gib(10),
            )
            assert await world.get("/api/admin/usage/alice") == 0

    async def test_the_same_webhook_again_resets_nothing(self, world):
        await world.use("alice", external_bytes=gib(7), panel_bytes=gib(1))
        world.panel.take_webhooks()
        world.panel.reset_user("alice")
        batch = world.panel.take_webhooks()
        await world.deliver(batch)
        await world.bridges.run_once()
        await world.use("alice", external_bytes=gib(2))
        again = [event | {"tries": 1, "send_at": 99.0} for event in batch]
        assert (await world.deliver(again)).status_code == 200
        await world.bridges.run_once()
        assert await world.get("/api/admin/usage/alice") == gib(2)


class TestHealth:
    """Whether the bridge lives, whether it does its work, and why not."""

    async def ready(self, world):
        return await world.client.get("/readyz")

    async def until_ready(self, world):
        outages = (world.bridge.reconciler.health.outage, world.bridges.feed_reader.outage)
        await until("ready", lambda: all(outage.is_up for outage in outages))
        return await self.ready(world)

    async def test_it_is_ready_when_both_sides_answered(self, world):
        await world.use("alice", external_bytes=1)
        answer = await self.until_ready(world)
        assert answer.status_code == 200
        assert answer.json() == {
            "status": "ok",
            "service": "marzban-bridge",
            "reasons": [],
            "warnings": [],
            "panels": {"default": "Marzban 0.8.4"},
            "enforcement": "limit",
        }

    async def test_it_lives_whatever_is_down(self, world):
        world.faults.is_down = world.ledger.is_down = True
        assert (await world.client.get("/healthz")).json()["status"] == "ok"
        for path in ("/healthz", "/readyz", "/metrics"):
            heads = (await world.client.head(path), await world.client.get(path))
            assert heads[0].status_code == heads[1].status_code

    async def test_it_says_when_the_panel_does_not_answer(self, world):
        await world.use("alice", external_bytes=1)
        await self.until_ready(world)
        world.faults.is_down = True
        world.ledger.report("alice", gib(11))
        outage = world.bridge.reconciler.health.outage
        world.bridge.queue.add(["alice"])
        await until("the panel missed", lambda: not outage.is_up)
        answer = await self.ready(world)
        assert answer.status_code == 503
        (reason,) = answer.json()["reasons"]
        assert reason.startswith("panel: ")
        assert "502" in reason

    async def test_it_says_when_the_panel_refuses_its_sign_in(self, tmp_path):
        async with BridgeWorld(tmp_path, marzban_password="a-mistake").serving() as world:
            world.ledger.report("alice", 1)
            outage = world.bridge.reconciler.health.outage
            await until("refused", lambda: "MARZBAN_PASSWORD" in (outage.reason or ""))
            answer = await self.ready(world)
            assert answer.status_code == 503
            assert "a-mistake" not in answer.text

    @pytest.mark.parametrize(("key", "word"), [("wrong", "COLLECTOR_ADMIN_KEY"), (None, "down")])
    async def test_it_says_when_the_collector_cannot_be_read(self, tmp_path, key, word):
        world = BridgeWorld(tmp_path, **({"collector_admin_key": key} if key else {}))
        world.ledger.is_down = key is None
        async with world.serving():
            outage = world.bridges.feed_reader.outage
            await until("refused", lambda: word in (outage.reason or ""))
            answer = await self.ready(world)
            assert answer.status_code == 503
            assert any(word in reason for reason in answer.json()["reasons"])

    async def test_it_says_when_users_are_held(self, world):
        await world.use("alice", external_bytes=gib(1))
        world.ledger.totals["alice"] = (1, 1, world.ledger.seq + 1)
        world.ledger.seq += 1
        await world.bridges.run_once()
        answer = await self.ready(world)
        assert answer.status_code == 503
        assert any("rebase" in reason for reason in answer.json()["reasons"])
        assert (await world.get("/api/admin/usage/alice/detailed"))["is_held"] is True

    @pytest.mark.parametrize("total", [1, gib(9)], ids=["fallen", "regrown"])
    async def test_a_held_user_stands_everywhere_as_before_the_loss(self, world, total):
        """Not at what the ledger says now: that is neither what was used nor what a rebase keeps."""
        await world.use("alice", external_bytes=gib(2), panel_bytes=gib(1))
        copied = world.ledger.copied()
        await world.use("alice", external_bytes=gib(3))
        world.ledger.restore(copied)
        world.ledger.totals["alice"] = (0, 0, world.ledger.seq)
        world.ledger.report("alice", total)
        await world.bridges.run_once()
        (listed,) = (await world.get("/v1/users"))["users"]
        assert (listed["is_held"], listed["external_bytes"]) == (True, gib(5))
        assert (listed["used_bytes"], listed["used_ratio"]) == (gib(6), 0.6)
        assert await world.get("/api/admin/usage/alice") == gib(6)
        detailed = await world.get("/api/admin/usage/alice/detailed")
        assert (detailed["is_held"], detailed["external_usage_bytes"]) == (True, gib(5))
        assert await world.get("/api/admin/usage/shop") == gib(6)

    async def test_all_are_shown_as_held_while_the_store_is_in_doubt(self, world):
        await world.use("alice", external_bytes=gib(2))
        world.bridges.rollback_check.suspend("it is an older one")
        world.ledger.report("alice", gib(70))  # of periods that the older store knows nothing of
        await until("read", lambda: world.bridge.store.usage.total_bytes("alice") == gib(72))
        (listed,) = (await world.get("/v1/users"))["users"]
        assert (listed["is_held"], listed["external_bytes"]) == (True, gib(2))
        detailed = await world.get("/api/admin/usage/alice/detailed")
        assert (detailed["is_held"], detailed["external_usage_bytes"]) == (True, gib(2))

    async def test_a_reset_of_an_admin_begins_anew_at_what_its_held_users_stand_at(self, world):
        await world.use("alice", external_bytes=gib(2))
        copied = world.ledger.copied()
        await world.use("alice", external_bytes=gib(3))
        world.ledger.restore(copied)
        world.ledger.report("alice", gib(1))
        await world.bridges.run_once()
        await world.ask("POST", "/api/admin/usage/reset/shop", params={"kind": "admin"})
        assert await world.get("/api/admin/usage/shop") == 0
        await world.bridges.rebase(actor="root")
        assert await world.get("/api/admin/usage/shop") == 0

    async def test_it_says_when_the_loop_has_stopped(self, world, monkeypatch):
        await world.use("alice", external_bytes=1)

        async def break_down(_):
            raise RuntimeError("the disk is full")

        monkeypatch.setattr(world.bridge.reconciler._batches, "settle_queued", break_down)
        world.bridge.queue.add(["alice"])
        await until("the end of the loop", lambda: bool(world.loop_failures))
        answer = await self.ready(world)
        assert answer.status_code == 503
        assert any("the loop stopped" in reason for reason in answer.json()["reasons"])


async def test_metrics_have_no_names_in_them(world):
    world.panel.create_user("unmistakable", by="shop", data_limit=gib(1))
    world.ledger.report("unmistakable-orphan", 5)
    await world.use("unmistakable", external_bytes=gib(2))
    await world.ask("POST", "/v1/users/unmistakable/reset")
    await world.deliver([reset_event("unmistakable")])
    answer = await world.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    for name in ("bridge_changes_total", "bridge_webhooks_total", "bridge_orphans 1.0"):
        assert name in answer.text
    for name in ("unmistakable", "shop", "boss"):
        assert name not in answer.text


async def test_no_secret_is_ever_told(tmp_path, caplog):
    """Neither logs, nor answers of any kind, nor the store hold a password, a token or a key."""
    caplog.set_level(logging.DEBUG)
    world = BridgeWorld(tmp_path)
    told: list[str] = []
    async with world.serving():
        tokens = {name: world.as_(name)["authorization"].split()[1] for name in PASSWORDS}
        subscription = world.panel.get_user("alice")["subscription_url"].rsplit("/", 1)[1]
        await world.use("alice", external_bytes=gib(11), panel_bytes=gib(1))
        stranger = {"authorization": "Bearer a-stolen-token"}
        wrong = {"x-webhook-secret": "a-wrong-webhook-secret"}
        for is_down in (False, True):
            world.faults.is_down = world.ledger.is_down = is_down
            for method, path in [*GUARDED, ("GET", "/readyz"), ("GET", "/metrics")]:
                for headers in (stranger, {"authorization": f"Bearer {tokens['boss']}"}):
                    answer = await world.client.request(
                        method, path, headers=headers, json=RESET_ALL
                    )
                    told.append(answer.text)
            told.append((await world.sign_in("shop", "a-wrong-password")).text)
            told.append((await world.deliver([reset_event(user={"x": subscription})])).text)
            told.append((await world.deliver([reset_event()], **wrong)).text)
            with contextlib.suppress(Exception):
                await world.bridges.run_once()
    told += [f"{record.getMessage()} {record.exc_text}" for record in caplog.records]
    told += [repr(world.settings)]
    told += [path.read_bytes().decode("latin-1") for path in tmp_path.iterdir()]
    secrets = [*PASSWORDS.values(), *tokens.values(), ADMIN_KEY, SECRET, subscription]
    secrets += ["a-stolen-token", "a-wrong-password", "a-wrong-webhook-secret"]
    for secret in secrets:
        assert not [text[:300] for text in told if secret in text], secret


class TestResellers:
    """Sudo admins set quotas of resellers; a reseller sees its own."""

    async def test_a_quota_is_set_seen_reset_and_taken_away(self, world):
        path = "/v1/resellers/shop"
        for method, where in (("PUT", path), ("DELETE", path), ("POST", f"{path}/reset")):
            answer = await world.ask(method, where, by="shop", json={"quota_bytes": 5})
            assert answer.status_code == 403
        answer = await world.ask("PUT", path, json={"quota_bytes": gib(4), "reset": "month"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["is_enforced"] is False
        await world.use("alice", external_bytes=gib(3), panel_bytes=gib(2))
        (seen,) = await world.get("/v1/resellers", by="shop")
        assert seen == answer.json() | {"used_bytes": gib(5), "used_ratio": 1.25}
        text = (await world.client.get("/metrics")).text
        assert 'bridge_reseller_used_ratio{admin="shop"} 1.25' in text
        answer = await world.ask("PUT", path, json={"is_enforced": True})
        assert answer.json()["is_cut_off"] is True
        await until("alice is cut off", lambda: world.panel.find("alice").status == "disabled")
        answer = await world.ask("POST", f"{path}/reset")
        assert (answer.status_code, answer.json()["used_bytes"]) == (200, 0)
        await until("alice is let in", lambda: world.panel.find("alice").status == "active")
        assert (await world.ask("DELETE", path)).json()["reseller"] == "shop"
        assert await world.get("/v1/resellers") == []
        assert (await world.ask("DELETE", path)).status_code == 404
        assert (await world.ask("POST", f"{path}/reset")).status_code == 404
        await world.bridges.run_once()
        assert "bridge_reseller_used_ratio{" not in (await world.client.get("/metrics")).text

    @pytest.mark.parametrize(
        "body", [{"quota_bytes": 0}, {"quota_bytes": 2**61}, {"quota_bytes": 1, "reset": "hour"}]
    )
    async def test_a_quota_that_cannot_be_is_refused(self, world, body):
        assert (await world.ask("PUT", "/v1/resellers/shop", json=body)).status_code == 422

    async def test_an_admin_whom_the_panel_does_not_have_is_not_found(self, world):
        answer = await world.ask("PUT", "/v1/resellers/shopp", json={"quota_bytes": 1})
        assert answer.status_code == 404
        assert "did you mean shop" in answer.json()["detail"]
