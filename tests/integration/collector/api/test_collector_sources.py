"""Other panels over HTTP: what they post is counted once, and their key is written nowhere."""

from __future__ import annotations

import asyncio
import gzip
import json
import time

import pytest

from collector.errors import NotStoredError
from collector.intake.push_ids import PushIds
from tests.support.collector.collectors import AS_ADMIN, KEY, OTHER_KEY, CollectorWorld, running
from tests.support.collector.ledgers import NOON_MILLIS

NODE = "node_id=7&node_type=vless"
THREE_X_UI = f"/v1/sources/3x-ui/{KEY}"
UNIPROXY = f"/v1/sources/uniproxy/{KEY}?{NODE}&token=the-panels-own-secret"
SOURCES = """
[3x-ui.other]
server = "nl-2"
port = 8443
protocol = "trojan"
users = { pattern = '(?P<username>.+)-nl' }

[uniproxy.r]
nodes = { 7 = "fr-1" }
[uniproxy.r.users.table]
42 = "alice"
43 = "bob"
"""


@pytest.fixture
def sources(tmp_path):
    path = tmp_path / "sources.toml"
    path.write_text(SOURCES)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite3"


def a_world(path, sources, **environment):
    return CollectorWorld(
        path=path, environment={"COLLECTOR_SOURCES_FILE": str(sources)} | environment
    )


@pytest.fixture
async def world(path, sources):
    async with running(a_world(path, sources)) as world:
        yield world


async def post(world, path, body, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return await world.send(body, path=path, headers=headers)


def inform(**clients):
    rows = [{"email": email, "up": up, "down": down} for email, (up, down) in clients.items()]
    return {"clientTraffics": rows, "inboundTraffics": [{"Tag": "in", "Up": 99, "Down": 99}]}


class TestThreeXUi:
    async def test_without_an_entry_the_server_is_the_reporter_and_emails_are_usernames(
        self, world
    ):
        answer = await post(world, THREE_X_UI, inform(alice=(1, 2), quiet=(0, 0)))
        assert (answer.status_code, answer.json()) == (
            200,
            {"accepted": 1, "duplicates": 0, "ignored": 1, "rejected": []},
        )
        assert await world.totals() == {"alice": 3}
        (server,) = await world.get("/v1/servers")
        assert (server["server"], server["port"], server["protocol"]) == ("r", 0, "unknown")

    async def test_an_entry_says_server_port_protocol_and_how_users_are_called(self, world):
        body = {"clientTraffics": [{"email": "alice-nl", "up": 1, "down": 2}]}
        answer = await post(world, f"/v1/sources/3x-ui/{OTHER_KEY}", body)
        assert answer.json()["accepted"] == 1
        assert await world.totals() == {"alice": 3}
        (server,) = await world.get("/v1/servers")
        assert (server["server"], server["port"], server["protocol"]) == ("nl-2", 8443, "trojan")

    async def test_the_same_post_again_is_new_traffic_for_3x_ui_never_retries(self, world):
        for _ in range(2):
            await post(world, THREE_X_UI, inform(alice=(1, 2)))
        assert await world.totals() == {"alice": 6}

    async def test_a_post_that_carries_an_id_is_counted_once(self, world):
        body = inform(alice=(1, 2), bob=(3, 4))
        for webhook_id in ("m-1", "m-1", "m-2"):
            await post(world, THREE_X_UI, body, webhook_id=webhook_id)
        assert await world.totals() == {"alice": 6, "bob": 14}

    async def test_a_slash_at_the_end_is_no_other_address(self, world):
        answer = await post(world, f"{THREE_X_UI}/", inform(alice=(1, 2)))
        assert answer.status_code == 200

    async def test_a_quiet_moment_is_heard_and_is_no_fault(self, world):
        for body in (inform(), inform(quiet=(0, 0)), {"clientTraffics": None}):
            answer = await post(world, THREE_X_UI, body)
            assert answer.status_code == 200
        metrics = (await world.client.get("/metrics")).text
        assert 'collector_reporter_last_report_timestamp_seconds{reporter="r"}' in metrics
        assert "collector_reports_ignored_total 1.0" in metrics

    async def test_users_nobody_knows_are_named_to_the_sender_and_once_a_minute_in_the_log(
        self, world, caplog
    ):
        body = inform(stranger=(1, 2), **{"alice-nl": (1, 2)})
        for _ in range(3):
            answer = await post(world, f"/v1/sources/3x-ui/{OTHER_KEY}", body)
            (refused,) = answer.json()["rejected"]
        assert "'stranger' does not fit" in refused["reason"]
        assert caplog.text.count("source_refused reporter='other' count=1") == 1

    async def test_megabytes_of_idle_clients_are_answered_well_within_the_panels_three_seconds(
        self, world
    ):
        idle = {"id": 0, "inboundId": 0, "enable": False, "uuid": "", "subId": "", "up": 0}
        idle |= {"down": 0, "expiryTime": 0, "total": 0, "reset": 0, "resetDay": 0, "resetMax": 0}
        rows = [idle | {"email": f"client-{number:06}"} for number in range(40_000)]
        for row in rows[::100]:
            row["down"] = 5
        body = json.dumps({"clientTraffics": rows}).encode()
        assert len(body) > 6 * 2**20
        began = time.process_time()  # as long as it takes on a machine that does nothing else
        answer = await post(world, THREE_X_UI, body)
        assert time.process_time() - began < 2
        assert answer.json() == {
            "accepted": 400,
            "duplicates": 0,
            "ignored": 39_600,
            "rejected": [],
        }

    async def test_its_bodies_have_a_bound_of_their_own_also_when_inflated(self, path, sources):
        world = a_world(path, sources, COLLECTOR_MAX_SOURCE_BODY_BYTES="2048")
        padded = json.dumps(inform(alice=(1, 2))).encode() + b" " * 2048
        async with running(world):
            plain = await post(world, THREE_X_UI, padded)
            packed = await post(world, THREE_X_UI, gzip.compress(padded), content_encoding="gzip")
            small = await post(world, THREE_X_UI, inform(alice=(1, 2)))
        assert (plain.status_code, packed.status_code, small.status_code) == (413, 413, 200)


class TestUniProxy:
    async def test_a_mirrored_push_is_counted_for_the_users_of_the_table(self, world):
        answer = await post(world, UNIPROXY, {"42": [1, 2], "43": [3, 4], "44": [5, 6]})
        assert answer.json()["accepted"] == 2
        assert [each["field"] for each in answer.json()["rejected"]] == ["user_token"]
        assert await world.totals() == {"alice": 3, "bob": 7}
        (server,) = await world.get("/v1/servers")
        assert (server["server"], server["protocol"]) == ("fr-1", "vless")

    async def test_the_same_push_of_the_same_node_within_the_window_is_a_retry(self, world):
        body = {"42": [1, 2]}
        first = await post(world, UNIPROXY, body)
        world.now_millis += 19_999
        retry = await post(world, UNIPROXY, body)
        assert (first.json()["accepted"], retry.json()["duplicates"]) == (1, 1)
        metrics = (await world.client.get("/metrics")).text
        assert 'collector_source_retries_total{source="uniproxy"} 1.0' in metrics
        world.now_millis += 1
        later = await post(world, UNIPROXY, body)
        assert later.json()["accepted"] == 1

    @pytest.mark.parametrize(
        ("path_", "body"),
        [
            (UNIPROXY, {"42": [1, 3]}),
            (UNIPROXY.replace("node_id=7", "node_id=8"), {"42": [1, 2]}),
            (UNIPROXY.replace("vless", "trojan"), {"42": [1, 2]}),
        ],
    )
    async def test_another_push_or_of_another_node_is_none(self, world, path_, body):
        await post(world, UNIPROXY, {"42": [1, 2]})
        answer = await post(world, path_, body)
        assert answer.json()["accepted"] == 1

    @pytest.mark.parametrize("into_step_millis", [0, 1, 10_000, 19_998, 19_999])
    @pytest.mark.parametrize("after_millis", [1, 10_000, 19_999, 20_000, 25_000, 45_000])
    async def test_the_window_holds_across_a_restart_wherever_its_steps_end(
        self, path, sources, into_step_millis, after_millis
    ):
        first_millis = NOON_MILLIS // 20_000 * 20_000 + into_step_millis
        world = a_world(path, sources)
        world.now_millis = first_millis
        async with running(world):
            await post(world, UNIPROXY, {"42": [1, 2]})
        again = a_world(path, sources)
        again.now_millis = first_millis + after_millis
        async with running(again):
            answer = await post(again, UNIPROXY, {"42": [1, 2]})
        assert answer.json()["duplicates"] == (1 if after_millis < 20_000 else 0)

    async def test_tries_that_overlap_are_one_push(self, world):
        tries = [post(world, UNIPROXY, {"42": [1, 2], "43": [3, 4]}) for _ in range(4)]
        answers = await asyncio.gather(*tries)
        assert sum(answer.json()["accepted"] for answer in answers) == 2
        assert await world.totals() == {"alice": 3, "bob": 7}

    async def test_tries_that_overlap_across_the_end_of_a_step_are_one_push_too(
        self, world, monkeypatch
    ):
        world.now_millis = NOON_MILLIS // 20_000 * 20_000 - 1
        is_looking, may_go_on = asyncio.Event(), asyncio.Event()

        async def look_slowly_once(*_):
            if not is_looking.is_set():
                is_looking.set()
                await may_go_on.wait()

        monkeypatch.setattr(PushIds, "_find_stored", look_slowly_once)
        first = asyncio.create_task(post(world, UNIPROXY, {"42": [1, 2]}))
        await is_looking.wait()
        world.now_millis += 2
        second = await post(world, UNIPROXY, {"42": [1, 2]})
        may_go_on.set()
        accepted = [answer.json()["accepted"] for answer in (await first, second)]
        assert sorted(accepted) == [0, 1]

    async def test_a_first_try_that_was_not_stored_leaves_its_traffic_to_the_retry(
        self, world, monkeypatch
    ):
        async def full(batch):
            raise NotStoredError("the queue is full")

        with monkeypatch.context() as patched:
            patched.setattr(world.app.state.collector.ingest, "submit", full)
            assert (await post(world, UNIPROXY, {"42": [1, 2]})).status_code == 503
        answer = await post(world, UNIPROXY, {"42": [1, 2]})
        assert answer.json()["accepted"] == 1

    async def test_a_window_of_nothing_counts_each_push(self, world, sources):
        sources.write_text("[uniproxy.r]\nusers = 'identity'\nretry_window_seconds = 0\n")
        world.app.state.collector.sources._look_at_seconds = 0
        for _ in range(2):
            answer = await post(world, UNIPROXY, {"alice": [1, 2]})
            assert answer.json()["accepted"] == 1

    async def test_a_push_with_an_id_is_known_by_it_and_not_by_what_it_says(self, world):
        for webhook_id in ("m-1", "m-2", "m-1"):
            await post(world, UNIPROXY, {"42": [1, 2]}, webhook_id=webhook_id)
        assert await world.totals() == {"alice": 6}

    async def test_nodes_of_a_panel_nobody_described_are_refused_with_what_to_do(self, world):
        path = UNIPROXY.replace(KEY, OTHER_KEY)
        answer = await post(world, path, {"42": [1, 2]})
        assert answer.status_code == 403
        assert "add [uniproxy.other] to COLLECTOR_SOURCES_FILE" in answer.json()["detail"]

    async def test_a_push_that_does_not_say_of_which_node_is_refused(self, world):
        answer = await post(world, f"/v1/sources/uniproxy/{KEY}", {"42": [1, 2]})
        assert answer.status_code == 422
        assert {each["field"] for each in answer.json()["errors"]} == {"node_id", "node_type"}


class TestWhoMay:
    @pytest.mark.parametrize("kind", ["3x-ui", "uniproxy"])
    @pytest.mark.parametrize("key", ["", "/", "wrong", "%2e%2e", f"{KEY}x", KEY[:-1], "%00", "é"])
    async def test_nobody_without_a_key_and_its_body_is_not_even_read(self, world, kind, key):
        answer = await post(world, f"/v1/sources/{kind}/{key}?{NODE}", b"[" * 100)
        assert answer.status_code in {401, 404}
        assert await world.totals() == {}

    async def test_a_key_in_a_header_does_not_stand_in_for_a_wrong_one_in_the_path(self, world):
        answer = await post(
            world, "/v1/sources/3x-ui/wrong", inform(a=(1, 2)), authorization=f"Bearer {KEY}"
        )
        assert answer.status_code == 401

    @pytest.mark.parametrize("path_", ["/v1/sources/3x-ui", f"/v1/sources/uniproxy?{NODE}"])
    async def test_what_can_set_headers_leaves_the_key_out_of_the_path(self, world, path_):
        body = inform(alice=(1, 2)) if "3x-ui" in path_ else {"42": [1, 2]}
        for headers in ({}, {"authorization": "Bearer wrong"}):
            assert (await post(world, path_, body, **headers)).status_code == 401
        answer = await post(world, path_, body, authorization=f"Bearer {KEY}")
        assert answer.status_code == 200
        assert await world.totals() == {"alice": 3}

    async def test_a_reporter_that_posts_too_often_is_told_to_wait(self, path, sources):
        world = a_world(path, sources, COLLECTOR_KEY_REQUESTS_PER_SECOND="1")
        async with running(world):
            answers = [await post(world, THREE_X_UI, inform(a=(1, 2))) for _ in range(4)]
        assert answers[-1].status_code == 429
        assert answers[-1].headers["retry-after"]


async def test_a_sources_file_that_is_made_wrong_is_in_readyz_and_harms_nothing(world, sources):
    sources.write_text("[3x-ui.other]\nsever = 'x'\n")
    world.app.state.collector.sources._look_at_seconds = 0
    answer = await post(world, UNIPROXY, {"42": [1, 2]})
    assert answer.json()["accepted"] == 1
    ready = await world.client.get("/readyz", headers=AS_ADMIN)
    assert ready.status_code == 200
    assert "sever: is not known here" in ready.text


async def test_the_key_is_in_no_answer_no_metric_and_no_line_of_the_log(world, caplog):
    caplog.set_level(0)
    answers = [
        await world.client.request(method, path, content=body)
        for method in ("POST", "GET", "PUT", "DELETE", "OPTIONS", "HEAD")
        for path in (
            THREE_X_UI,
            f"{THREE_X_UI}/",
            f"{THREE_X_UI}/more",
            f"/v1/sources/uniproxy/{KEY}",
            UNIPROXY,
            f"/v1/sources/{KEY}",
            f"/v1/sources/none/{KEY}",
            f"/v1/sources/none/{KEY}/",
            f"/v1/sources/3x-ui//{KEY}",
            f"{THREE_X_UI}?reporter={'x' * 100}",
        )
        for body in (b"", b"[1]", json.dumps(inform(alice=(1, -2))).encode(), b'{"42": [1, 2]}')
    ]
    assert {answer.status_code for answer in answers} >= {200, 400, 401, 404, 405, 422}
    for answer in answers:
        assert KEY not in answer.text
        assert KEY not in str(answer.headers)
    assert KEY not in (await world.client.get("/metrics")).text
    ours = [each for each in caplog.records if not each.name.startswith(("httpx", "httpcore"))]
    assert ours
    assert not [each for each in ours if KEY in each.getMessage()]
    secret = "the-panels-own-secret"
    assert not [each for each in ours if secret in each.getMessage()]
