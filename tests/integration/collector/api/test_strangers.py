"""Who has no key, no token and a bad one: what that costs the collector, the bridge, the panel."""

from __future__ import annotations

import asyncio
import gzip
import json
import time

import httpx
import pytest
from fastapi import FastAPI

from collector.api.pipeline import MOST_OWN_TOKENS
from collector.api.problems import MOST_NAMED_ERRORS
from collector.client.answers import Unfit, judge_reports
from marzban_bridge.api.access.bearers import REFUSED_SECONDS, REMEMBERED, Bearers
from tests.support.bridge.bridge_world import PASSWORDS, BridgeWorld
from tests.support.collector.collectors import (
    ALICE_TOKEN,
    AS_REPORTER,
    BOB_TOKEN,
    KEY,
    CollectorWorld,
    running,
    wire,
)

NOBODY: dict[str, str] = {}
GZIPPED = {"content-encoding": "gzip"}
ONES = gzip.compress(b"[" + b",".join([b"1"] * 10_000) + b"]")
LONG_NUMBERS = gzip.compress(b"[" + b",".join([b"9" * 4300] * 1900) + b"]")


@pytest.fixture
async def collector(tmp_path):
    async with running(CollectorWorld(path=tmp_path / "ledger.sqlite3")) as world:
        yield world


@pytest.fixture
async def bridge(tmp_path):
    async with BridgeWorld(tmp_path).serving() as world:
        yield world


def at(world: CollectorWorld | BridgeWorld, app: object, address: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, client=(address, 1234))
    return httpx.AsyncClient(transport=transport, base_url="http://collector.test")


class TestABodyIsNotReadForStrangers:
    """It is inflated and decoded only once it is known who sends it."""

    @pytest.mark.parametrize("path", ["/v1/reports", "/api/xpert/traffic-webhook"])
    @pytest.mark.parametrize(
        "plain", [b"[" + b",".join([b"1"] * 10_000) + b"]", b"[{}]", b"{}", b"not json"], ids=len
    )
    async def test_who_proves_nothing_is_told_so_and_nothing_of_the_body(
        self, collector, path, plain
    ):
        answer = await collector.send(gzip.compress(plain), path=path, headers=GZIPPED)
        assert answer.status_code == 401
        assert len(answer.content) < 1000
        assert answer.json()["errors"] == []

    async def test_a_body_of_long_numbers_does_not_hold_the_loop_up(self, collector):
        assert len(LONG_NUMBERS) < 13_000
        for headers in (NOBODY, AS_REPORTER):
            started_at = time.process_time()
            answer = await collector.send(LONG_NUMBERS, headers=headers | GZIPPED)
            assert answer.status_code == (413 if headers is NOBODY else 422)
            assert time.process_time() - started_at < 0.1

    async def test_a_stranger_s_body_may_be_smaller_than_a_reporter_s(self, collector):
        body = json.dumps([wire(ALICE_TOKEN)] * 2500).encode()
        assert len(body) > 256 * 2**10
        for sent, encoding in ((body, NOBODY), (gzip.compress(body), GZIPPED)):
            answer = await collector.send(sent, headers=encoding)
            assert answer.status_code == 413
        assert (await collector.send(body)).status_code == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {"webhook-signature": "v1,x", "webhook-id": "m", "webhook-timestamp": "1"},
            {"webhook-signature": "v1,x"},
        ],
    )
    @pytest.mark.parametrize("query", ["", "?reporter=r", "?reporter=nobody"])
    async def test_a_signature_that_cannot_fit_is_refused_before_the_body_is_read(
        self, collector, headers, query
    ):
        async def unread():
            raise AssertionError("the body was read")
            yield b""

        answer = await collector.client.post(
            f"/v1/reports{query}", content=unread(), headers=headers
        )
        assert answer.status_code == 401

    async def test_a_signed_body_is_not_inflated_before_the_signature_is_verified(self, collector):
        now = str(collector.now_millis // 1000)
        headers = {"webhook-signature": "v1,eA==", "webhook-id": "m", "webhook-timestamp": now}
        answer = await collector.send(
            b"no gzip at all", path="/v1/reports?reporter=r", headers=headers | GZIPPED
        )
        assert answer.status_code == 401

    @pytest.mark.parametrize("kind", ["3x-ui", "uniproxy"])
    async def test_other_panels_bodies_are_not_read_without_a_key(self, collector, kind):
        async def unread():
            raise AssertionError("the body was read")
            yield b""

        answer = await collector.client.post(f"/v1/sources/{kind}/not-a-key", content=unread())
        assert answer.status_code == 401


class TestWhoReportsForItself:
    async def test_a_token_is_found_however_the_body_is_written(self, collector):
        spelt = ALICE_TOKEN.replace("W", "\\u0057", 1)
        for user_token in (
            f"https:\\/\\/panel.test\\/sub\\/{ALICE_TOKEN}",
            spelt,
            f"https://panel.test/sub/{ALICE_TOKEN}",
        ):
            body = json.dumps(wire("X")).replace(
                '"user_token": "X"', f'"user_token" :\n"{user_token}"'
            )
            answer = await collector.send(body.encode(), headers=NOBODY)
            assert answer.status_code == 200, answer.text
        assert await collector.totals() == {"alice": 90}

    async def test_the_user_is_slowed_down_before_its_body_is_decoded(self, tmp_path):
        environment = {"COLLECTOR_USER_REQUESTS_PER_SECOND": "0.001"}
        world = CollectorWorld(path=tmp_path / "other.sqlite3", environment=environment)
        body = f'[{{"user_token": "{ALICE_TOKEN}"'.encode()
        async with running(world):
            statuses = [(await world.send(body, headers=NOBODY)).status_code for _ in range(3)]
        assert statuses == [400, 429, 429]

    async def test_a_request_asks_the_panel_about_few_tokens(self, collector):
        tokens = [ALICE_TOKEN[:-3] + f"{number:03}" for number in range(50)]
        collector.users |= dict.fromkeys(tokens, "alice")
        answer = await collector.send([wire(each) for each in tokens], headers=NOBODY)
        assert answer.status_code == 401
        assert len(collector.asked) == MOST_OWN_TOKENS
        few = [wire(each) for each in tokens[:MOST_OWN_TOKENS]]
        assert (await collector.send(few, headers=NOBODY)).status_code == 200

    async def test_every_report_of_a_request_is_the_sender_s_own(self, collector):
        for other in (wire(BOB_TOKEN), wire("alice"), wire("bob")):
            answer = await collector.send([wire(ALICE_TOKEN), other], headers=NOBODY)
            assert answer.status_code == 401
        assert await collector.totals() == {}


class TestErrorsAreFew:
    async def test_an_answer_names_a_hundred_and_counts_the_rest(self, collector):
        answer = await collector.send(ONES, headers=AS_REPORTER | GZIPPED)
        assert answer.status_code == 422
        assert len(answer.json()["errors"]) == MOST_NAMED_ERRORS == 100
        assert answer.json()["more_errors"] == 9_900
        assert len(answer.content) < 10_000
        metrics = (await collector.client.get("/metrics")).text
        assert 'collector_reports_refused_total{field="report"} 10000.0' in metrics

    async def test_so_does_one_beside_reports_that_are_taken(self, collector):
        body = [wire(port=-1)] * 250 + [wire()]
        answer = (await collector.send(body)).json()
        assert [each["index"] for each in answer["rejected"]] == list(range(100))
        assert (answer["accepted"], answer["more_rejected"]) == (1, 150)

    async def test_where_all_are_named_nothing_is_said_of_more(self, collector):
        answer = await collector.send([wire(port=-1)] * 100 + [wire()])
        assert "more_rejected" not in answer.json()

    async def test_a_client_then_sends_fewer_at_once_and_takes_none_for_done(self, collector):
        body = [wire(port=-1, report_id=str(n)) for n in range(101)] + [wire(report_id="last")]
        answer = await collector.send(body)
        now = time.gmtime()
        verdict = judge_reports(200, answer.headers, answer.content, count=len(body), now=now)
        assert isinstance(verdict, Unfit)


class TestSubscriptionProofs:
    async def test_made_up_tokens_are_few_questions_and_then_429(self, collector):
        now_seconds = time.monotonic()
        collector.monotonic_seconds = lambda: now_seconds  # on a slow machine questions return
        made_up = [ALICE_TOKEN[:-3] + f"{number:03}" for number in range(300)]
        async with at(collector, collector.app, "203.0.113.7") as stranger:
            answers = [await stranger.post("/v1/reports", json=wire(each)) for each in made_up]
            page = await stranger.get(f"/api/xpert/traffic-stats/{BOB_TOKEN}")
        assert [each.status_code for each in answers] == [401] * 10 + [429] * 290
        assert page.status_code == 429
        assert len(collector.asked) == 10
        assert int(answers[-1].headers["retry-after"]) >= 1
        async with at(collector, collector.app, "203.0.113.8") as user:
            answer = await user.post("/v1/reports", json=wire(BOB_TOKEN))
        assert answer.status_code == 200


class TestAdminTokens:
    """Of the bridge's admin API."""

    @pytest.fixture
    def asked(self, bridge, monkeypatch) -> list[str]:
        """The tokens that the panel was asked about; the bridge's own is not among them."""
        tokens: list[str] = []
        whoami = bridge.bridge.panel.whoami

        async def note(*, bearer: str | None = None):
            if bearer is not None:
                tokens.append(bearer)
            return await whoami(bearer=bearer)

        monkeypatch.setattr(bridge.bridge.panel, "whoami", note)
        return tokens

    async def test_made_up_ones_are_few_questions_and_then_429(self, bridge, asked):
        answers = [
            await bridge.client.get("/v1/users", headers={"authorization": f"Bearer made-up-{n}"})
            for n in range(300)
        ]
        assert [each.status_code for each in answers] == [401] * 10 + [429] * 290
        assert len(asked) == 10
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 6

    async def test_many_at_once_are_no_more_than_one_after_another(self, bridge):
        answers = await asyncio.gather(
            *(
                bridge.client.get("/v1/users", headers={"authorization": f"Bearer made-up-{n}"})
                for n in range(50)
            )
        )
        assert sorted(each.status_code for each in answers) == [401] * 10 + [429] * 40

    async def test_one_that_was_right_is_never_held_up(self, bridge):
        known = bridge.as_("boss")
        assert (await bridge.client.get("/v1/users", headers=known)).status_code == 200
        for n in range(50):
            await bridge.client.get("/v1/users", headers={"authorization": f"Bearer made-up-{n}"})
        assert (await bridge.client.get("/v1/users", headers=known)).status_code == 200
        assert (await bridge.client.get("/v1/users", headers=bridge.as_("shop"))).status_code == 429

    async def test_who_signs_in_through_the_bridge_is_known(self, bridge):
        for n in range(50):
            await bridge.client.get("/v1/users", headers={"authorization": f"Bearer made-up-{n}"})
        token = (await bridge.sign_in("shop", PASSWORDS["shop"])).json()["access_token"]
        headers = {"authorization": f"Bearer {token}"}
        assert (await bridge.client.get("/v1/users", headers=headers)).status_code == 200

    async def test_a_refused_one_is_not_asked_about_again_at_once(self, bridge, asked):
        headers = {"authorization": "Bearer made-up"}
        for _ in range(30):
            assert (await bridge.client.get("/v1/users", headers=headers)).status_code == 401
        assert len(asked) == 1
        bridge.clock.advance(seconds=REFUSED_SECONDS)
        assert (await bridge.client.get("/v1/users", headers=headers)).status_code == 401
        assert len(asked) == 2

    async def test_one_that_is_withdrawn_is_refused_at_once(self, bridge):
        headers = bridge.as_("shop")
        assert (await bridge.client.get("/v1/users", headers=headers)).status_code == 200
        del bridge.panel.admins["shop"]
        assert (await bridge.client.get("/v1/users", headers=headers)).status_code == 401

    async def test_a_panel_that_is_down_is_held_against_nobody(self, bridge):
        headers = bridge.as_("boss")
        bridge.faults.is_down = True
        for _ in range(30):
            assert (await bridge.client.get("/v1/users", headers=headers)).status_code == 503
        bridge.faults.is_down = False
        assert (await bridge.client.get("/v1/users", headers=headers)).status_code == 200


def test_no_more_tokens_are_remembered_than_allowed():
    bearers = Bearers()
    for number in range(REMEMBERED + 50):
        bearers.introduce("default", f"good-{number}")
        bearers.note_refused("default", f"bad-{number}", now_seconds=0.0)
    assert len(bearers._accepted) == REMEMBERED
    assert len(bearers._refused_until_seconds) == REMEMBERED


def test_a_token_of_one_panel_is_none_of_another():
    bearers = Bearers()
    bearers.introduce("default", "a-token")
    bearers.note_refused("default", "bad", now_seconds=0.0)
    assert not bearers.is_refused("two", "bad", now_seconds=0.0)
    waits = [
        bearers.take("two", "a-token", address="203.0.113.7", now_seconds=0.0) for _ in range(11)
    ]
    assert waits[-1] > 0


def routes_of(app: FastAPI) -> list[tuple[str, str]]:
    documented = [(method, path) for path, it in app.openapi()["paths"].items() for method in it]
    assert len(documented) > 10
    return [*documented, *(("GET", path) for path in ("/docs", "/openapi.json", "/confirm/reset"))]


class TestASlashAtTheEnd:
    """No path is redirected: behind a proxy with TLS that would say http://."""

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/v1/reports/", wire()),
            ("/api/xpert/traffic-webhook/", wire()),
            ("/v1/sources/3x-ui/", {"clientTraffics": []}),
            (f"/v1/sources/3x-ui/{KEY}/", {"clientTraffics": []}),
        ],
    )
    async def test_the_collector_takes_reports_all_the_same(self, collector, path, body):
        assert (await collector.send(body, path=path)).status_code == 200

    async def test_no_other_route_of_the_collector_redirects(self, collector):
        for method, path in routes_of(collector.app):
            answer = await collector.client.request(method, f"{path}/")
            assert not answer.is_redirect, path
        answer = await collector.client.get("/v1/servers/")
        assert answer.status_code == 404
        assert "slash" in answer.json()["detail"]

    async def test_no_route_of_the_bridge_redirects(self, bridge):
        for method, path in routes_of(bridge.client._transport.app):
            answer = await bridge.client.request(method, f"{path}/")
            assert not answer.is_redirect, path
        answer = await bridge.client.get("/v1/users/")
        assert answer.status_code == 404
        assert "slash" in answer.json()["detail"]
