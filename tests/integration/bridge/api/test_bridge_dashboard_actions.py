"""The buttons of a dashboard: who may press them, what they do, and what trace they leave."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from urllib.parse import quote

import httpx
import pytest

from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.bridge_world import PASSWORDS, RESET_ALL, BridgeWorld, until
from tests.support.collector.collectors import ADMIN_KEY as COLLECTOR_KEY
from tests.support.collector.collectors import CollectorWorld, running

TOKEN = "the-token-that-grafana-adds"
CLEANUP = {"days": 30, "confirm": "cleanup"}
BUTTONS = [
    ("reset", "/actions/users/alice/reset", {}),
    ("reset_all", "/actions/reset-all", RESET_ALL),
    ("cleanup", "/actions/cleanup", CLEANUP),
]


class Grafana:
    """Presses buttons as Grafana's datasource proxy passes them on."""

    def __init__(self, world: BridgeWorld) -> None:
        self._world = world

    async def press(self, path, body=None, *, token=TOKEN, login="olga", **arguments):
        headers = {"x-bridge-token": token, "x-grafana-user": login}
        sent = {name: value for name, value in headers.items() if value is not None}
        if body is not None:
            arguments["json"] = body
        return await self._world.client.post(path, headers=sent, **arguments)


async def number(world, name):
    for line in (await world.client.get("/metrics")).text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.rsplit(" ", 1)[1])
    return None


def events(world, kind):
    return [
        each for each in world.bridge.store.events.newest(limit=1000) if each.event.kind == kind
    ]


@pytest.fixture
async def world(tmp_path):
    async with BridgeWorld(tmp_path, action_token=TOKEN, action_logins=("*",)).serving() as served:
        yield served


@pytest.fixture
def grafana(world):
    return Grafana(world)


class TestWhoMayPress:
    """Grafana proves itself by the token; whom it lets act is decided here."""

    @pytest.mark.parametrize(("action", "path", "body"), BUTTONS)
    @pytest.mark.parametrize(
        "token", [None, "", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), b"\xff\xfe"]
    )
    async def test_a_wrong_token_is_refused_and_nothing_happens(
        self, world, grafana, action, path, body, token
    ):
        await world.use("alice", external_bytes=gib(7), panel_bytes=gib(1))
        answer = await grafana.press(path, body, token=token)
        assert answer.status_code == 403  # a 401 would end the session of Grafana's user
        assert TOKEN not in answer.text
        assert world.bridge.actions.user_usage(
            await world.bridge.panel.get_user("alice")
        ).balance.used_bytes == gib(8)
        assert events(world, "action") == []
        counted = f'bridge_actions_total{{action="{action}",result="denied"}}'
        assert await number(world, counted) == 1

    @pytest.mark.parametrize(("action", "path", "body"), BUTTONS)
    @pytest.mark.parametrize("token", [None, "", "anything"])
    async def test_without_a_token_of_ours_all_buttons_are_off(
        self, tmp_path, action, path, body, token
    ):
        async with BridgeWorld(tmp_path).serving() as world:
            answer = await Grafana(world).press(path, body, token=token)
            assert answer.status_code == 403
            assert "BRIDGE_ACTION_TOKEN is not set" in answer.json()["detail"]

    @pytest.mark.parametrize(("action", "path", "body"), BUTTONS)
    @pytest.mark.parametrize("login", [None, "", "admin", "*"])
    async def test_without_a_login_of_ours_all_buttons_are_off(
        self, tmp_path, action, path, body, login
    ):
        async with BridgeWorld(tmp_path, action_token=TOKEN).serving() as world:
            await world.use("alice", external_bytes=gib(7))
            answer = await Grafana(world).press(path, body, login=login)
            assert answer.status_code == 403
            assert "BRIDGE_ACTION_LOGINS names no login" in answer.json()["detail"]
            assert world.bridge.store.accounts.get("alice").baseline_bytes == 0
            counted = f'bridge_actions_total{{action="{action}",result="denied"}}'
            assert await number(world, counted) == 1

    @pytest.mark.parametrize(
        ("login", "status", "words"),
        [
            ("olga", 200, ""),
            ("мария".encode(), 200, ""),
            ("OLGA", 403, "OLGA is not among BRIDGE_ACTION_LOGINS"),
            ("viewer", 403, "viewer is not among BRIDGE_ACTION_LOGINS"),
            ("olga,x", 403, "BRIDGE_ACTION_LOGINS"),
            ("", 403, "GF_DATAPROXY_SEND_USER_HEADER"),
            (None, 403, "GF_DATAPROXY_SEND_USER_HEADER"),
            (b"\xff", 403, "BRIDGE_ACTION_LOGINS"),
            ("l" * 101, 403, "BRIDGE_ACTION_LOGINS"),
        ],
    )
    async def test_a_list_of_logins_lets_nobody_else_act(self, tmp_path, login, status, words):
        logins = ("olga", "мария", "l" * 100)
        async with BridgeWorld(tmp_path, action_token=TOKEN, action_logins=logins).serving() as w:
            await w.use("alice", external_bytes=gib(7))
            answer = await Grafana(w).press("/actions/users/alice/reset", login=login)
            assert answer.status_code == status
            assert words in answer.text
            used = w.bridge.store.accounts.get("alice").baseline_bytes
            assert used == (gib(7) if status == 200 else 0)

    @pytest.mark.parametrize(
        ("login", "actor"),
        [
            ("olga", "grafana:olga"),
            ("мария".encode(), "grafana:мария"),
            (None, "grafana"),
            ("", "grafana"),
            ("a\tb", "grafana:a\N{REPLACEMENT CHARACTER}b"),
            ("\u202eeve".encode(), "grafana:\N{REPLACEMENT CHARACTER}eve"),
            ("x" * 5000, f"grafana:{'x' * 100}"),
        ],
    )
    async def test_events_say_who_pressed(self, world, grafana, login, actor):
        await world.use("alice", external_bytes=gib(7))
        assert (await grafana.press("/actions/users/alice/reset", login=login)).status_code == 200
        (reset,) = events(world, "reset")
        assert reset.event.actor == actor
        assert reset.username == "alice"

    @pytest.mark.parametrize(("action", "path", "body"), BUTTONS)
    async def test_nothing_happens_by_a_link_or_from_a_foreign_site(
        self, world, grafana, action, path, body
    ):
        headers = {"x-bridge-token": TOKEN}
        assert (await world.client.get(path, headers=headers)).status_code == 405
        asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
        preflight = await world.client.options(path, headers=asked)
        assert not [name for name in preflight.headers if name.startswith("access-control")]

    async def test_a_stranger_cannot_make_us_read_a_body(self, world):
        sent = 0

        async def endless():
            nonlocal sent
            while True:
                sent += 1024
                yield b"x" * 1024

        answer = await world.client.post("/actions/reset-all", content=endless())
        assert answer.status_code == 403
        assert sent <= 2048

    @pytest.mark.parametrize(("action", "path", "body"), BUTTONS[1:])
    async def test_a_body_without_end_is_not_read_to_its_end(
        self, world, grafana, action, path, body
    ):
        async def endless():
            while True:
                yield b" " * 1024

        answer = await grafana.press(path, content=endless())
        assert answer.status_code == 413


class TestResettingAUser:
    """The button beside a user."""

    @pytest.mark.parametrize("body", [b"", b"{}", b"null", b"not json", b'{"user": "bob"}'])
    async def test_the_user_begins_anew_whatever_the_body(self, world, grafana, body):
        await world.use("alice", external_bytes=gib(7), panel_bytes=gib(4))
        await world.use("bob", external_bytes=gib(5))
        answer = await grafana.press("/actions/users/alice/reset", content=body)
        assert answer.status_code == 200, answer.text
        assert answer.json() == {
            "username": "alice",
            "kind": "user",
            "total_usage_bytes": 0,
            "users": 1,
        }
        user = world.panel.get_user("alice")
        assert (user["used_traffic"], user["data_limit"], user["status"]) == (0, gib(10), "active")
        assert await world.get("/api/admin/usage/bob") == gib(5)
        assert await number(world, 'bridge_actions_total{action="reset",result="done"}') == 1

    @pytest.mark.parametrize(
        "name",
        [
            *("nobody", "a/b", "alice/reset", "%", "?x=1", "#", "a b", "\x00"),
            *("' OR 1=1 --", "<script>", "\U0001f4a9", "\u202e", "x" * 3000, "reset-all"),
        ],
    )
    async def test_a_name_the_panel_does_not_know_leaves_an_event_about_nobody(
        self, world, grafana, name
    ):
        answer = await grafana.press(f"/actions/users/{quote(name, safe='')}/reset")
        assert answer.status_code == 404, answer.text
        assert repr(name)[:50] in answer.json()["detail"]
        (event,) = events(world, "action")
        assert (event.username, event.event.actor) == ("", "grafana:olga")
        assert event.event.text.startswith("reset was refused: the panel has no user")
        assert len(event.event.text) <= 500
        assert await number(world, 'bridge_actions_total{action="reset",result="refused"}') == 1

    async def test_a_refusal_of_the_panel_is_in_the_users_events(self, world, grafana):
        await world.use("alice", external_bytes=gib(7), panel_bytes=gib(1))

        async def refuse(scope, receive, send):
            if scope["path"].endswith("/alice/reset"):
                world.faults.fail_next(status=409)
            await world.panel_app(scope, receive, send)

        world.bridge.panel._client._transport = httpx.ASGITransport(refuse)
        answer = await grafana.press("/actions/users/alice/reset")
        assert answer.status_code == 502
        (event,) = events(world, "action")
        assert (event.username, event.event.actor) == ("alice", "grafana:olga")
        assert event.event.text.startswith("reset was refused: ")

    async def test_while_the_panel_is_away_it_waits_and_is_counted_as_waiting(self, world, grafana):
        await world.use("alice", external_bytes=gib(7), panel_bytes=gib(1))
        assert await number(world, "bridge_pending_resets") == 0
        assert await number(world, "bridge_oldest_pending_reset_seconds") == 0

        async def go_away_at_reset(scope, receive, send):
            if scope["path"].endswith("/alice/reset"):
                world.faults.is_down = True
            await world.panel_app(scope, receive, send)

        world.bridge.panel._client._transport = httpx.ASGITransport(go_away_at_reset)
        answer = await grafana.press("/actions/users/alice/reset")
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        (event,) = events(world, "action")
        assert event.event.text.startswith("reset failed: ")
        world.clock.advance(seconds=90)
        assert await number(world, "bridge_pending_resets") == 1
        assert await number(world, "bridge_oldest_pending_reset_seconds") == 90
        world.bridge.panel._client._transport = httpx.ASGITransport(world.panel_app)
        world.faults.is_down = False
        await world.bridges.run_once()
        assert await number(world, "bridge_pending_resets") == 0
        assert await number(world, "bridge_oldest_pending_reset_seconds") == 0
        assert await world.get("/api/admin/usage/alice") == 0


class TestResettingAll:
    """The button for everybody acts as the bridge's own admin, once the words are typed."""

    @pytest.mark.parametrize(
        "body",
        [None, {}, [], "yes", {"confirm": ""}, {"confirm": "RESET ALL USERS"}, {"confirm": True}],
    )
    async def test_without_the_words_nothing_happens(self, world, grafana, body):
        await world.use("alice", external_bytes=gib(1))
        answer = await grafana.press("/actions/reset-all", body)
        assert answer.status_code == 422
        assert isinstance(answer.json()["detail"], str)
        assert world.faults.count("POST", "/api/users/reset") == 0
        assert await number(world, 'bridge_actions_total{action="reset_all",result="invalid"}') == 1

    async def test_everybody_begins_anew_and_the_events_say_by_whom(self, world, grafana):
        for name in ("alice", "bob", "carol"):
            await world.use(name, external_bytes=gib(7), panel_bytes=gib(1))
        answer = await grafana.press("/actions/reset-all", RESET_ALL)
        assert answer.json() == {"users": 3}
        await world.bridges.run_once()
        for name in ("alice", "bob", "carol"):
            assert await world.get(f"/api/admin/usage/{name}") == 0
        assert {each.event.actor for each in events(world, "reset")} == {"grafana:olga"}
        (event,) = events(world, "action")
        assert (event.username, event.event.actor) == ("", "grafana:olga")
        assert "3 with external traffic among them" in event.event.text

    async def test_a_refusal_of_the_panel_leaves_an_event_and_resets_nobody(self, world, grafana):
        await world.use("alice", external_bytes=gib(7), panel_bytes=gib(1))

        async def refuse(scope, receive, send):
            if scope["path"] == "/api/users/reset":
                world.faults.fail_next(status=409)
            await world.panel_app(scope, receive, send)

        world.bridge.panel._client._transport = httpx.ASGITransport(refuse)
        answer = await grafana.press("/actions/reset-all", RESET_ALL)
        assert answer.status_code == 502
        await world.bridges.run_once()
        assert await world.get("/api/admin/usage/alice") == gib(8)
        (event,) = events(world, "action")
        assert event.event.text.startswith("reset_all was refused: ")


class TestCleaningUp:
    """The button that has the collector purge what is old."""

    async def test_the_collector_purges_and_an_event_says_by_whom(self, tmp_path):
        collector = CollectorWorld(path=tmp_path / "ledger.sqlite3")
        world = BridgeWorld(
            tmp_path,
            collector_admin_key=COLLECTOR_KEY,
            action_token=TOKEN,
            action_logins=("*",),
        )
        async with running(collector), world.serving(httpx.ASGITransport(collector.app)):
            answer = await Grafana(world).press("/actions/cleanup", CLEANUP)
            assert answer.status_code == 200, answer.text
            assert answer.json()["days"] == 30
            (event,) = events(world, "cleanup")
            assert event.event.actor == "grafana:olga"

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"days": 0}, "days"),
            ({"days": 36501}, "days"),
            ({"days": "30"}, "days"),
            ({"days": True}, "days"),
            ({"days": 1.5}, "days"),
            ({"days": None}, "days"),
            ({"confirm": "yes"}, "confirm"),
            ({"confirm": "cleanup "}, "confirm"),
        ],
    )
    async def test_what_is_wrong_is_named_and_nothing_is_asked_of_the_collector(
        self, world, grafana, change, field
    ):
        answer = await grafana.press("/actions/cleanup", CLEANUP | change)
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith(f"{field}: ")
        assert events(world, "cleanup") == events(world, "action") == []

    async def test_while_the_collector_is_away_it_fails_with_an_event(self, world, grafana):
        world.ledger.is_down = True
        answer = await grafana.press("/actions/cleanup", CLEANUP)
        assert answer.status_code == 503
        (event,) = events(world, "action")
        assert event.event.text.startswith("cleanup failed: the collector")
        assert events(world, "cleanup") == []
        assert await number(world, 'bridge_actions_total{action="cleanup",result="failed"}') == 1


class TestPressingOften:
    """A login that presses too often has to wait; nobody else has."""

    async def test_each_login_and_each_button_has_its_own_patience(self, world, grafana):
        for _ in range(3):
            assert (await grafana.press("/actions/reset-all", RESET_ALL)).status_code == 200
        answer = await grafana.press("/actions/reset-all", RESET_ALL)
        assert answer.status_code == 429
        assert 0 < int(answer.headers["retry-after"]) <= 60
        assert world.faults.count("POST", "/api/users/reset") == 3
        other = await grafana.press("/actions/reset-all", RESET_ALL, login="igor")
        assert other.status_code == 200
        assert (await grafana.press("/actions/users/alice/reset")).status_code == 200
        world.clock.advance(seconds=int(answer.headers["retry-after"]))
        assert (await grafana.press("/actions/reset-all", RESET_ALL)).status_code == 200
        counted = 'bridge_actions_total{action="reset_all",result="throttled"}'
        assert await number(world, counted) == 1

    async def test_wrong_tokens_cost_nobody_patience(self, world, grafana):
        for _ in range(50):
            await grafana.press("/actions/reset-all", RESET_ALL, token="wrong")
        assert (await grafana.press("/actions/reset-all", RESET_ALL)).status_code == 200


async def test_the_token_is_never_told(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    world = BridgeWorld(
        tmp_path, action_token=TOKEN, action_logins=("*",), influxdb_token="the-influx-token"
    )
    async with world.serving():
        told = []
        for _, path, body in BUTTONS:
            for token in (TOKEN, TOKEN + "x", None):
                answer = await Grafana(world).press(path, body, token=token)
                told.append(answer.text)
        told += [(await world.client.get(path)).text for path in ("/readyz", "/metrics")]
    told += [record.getMessage() for record in caplog.records] + [repr(world.settings)]
    told += [path.read_bytes().decode("latin-1") for path in tmp_path.iterdir()]
    for secret in (TOKEN, "the-influx-token", *PASSWORDS.values()):
        assert not [text[:300] for text in told if secret in text], secret


@pytest.mark.parametrize("public_url", ["", "https://bridge.example.com"])
async def test_dashboards_learn_where_browsers_reach_the_bridge(tmp_path, public_url):
    async with BridgeWorld(tmp_path, public_url=public_url).serving() as world:
        (line,) = [
            line
            for line in (await world.client.get("/metrics")).text.splitlines()
            if line.startswith("bridge_info{")
        ]
        assert f'public_url="{public_url}"' in line
        assert 'version="' in line
        assert line.endswith(" 1.0")


class TestWithoutInflux:
    """InfluxDB is for looking: whether it is there, or away, changes nothing else."""

    async def test_a_bridge_without_one_says_nothing_of_it(self, world):
        assert world.bridges.time_series is None
        assert "bridge_influx_up" not in (await world.client.get("/metrics")).text

    async def test_one_that_is_away_is_a_warning_and_limits_are_kept(self, tmp_path):
        world = BridgeWorld(tmp_path, influxdb_url="http://127.0.0.1:1", influxdb_token="a-token")
        async with world.serving():
            await world.use("alice", external_bytes=gib(7), panel_bytes=gib(1))
            assert world.panel.get_user("alice")["data_limit"] == gib(3)
            outage = world.bridges.time_series.outage
            await until("InfluxDB missed", lambda: not outage.is_up)
            ends = (world.bridge.reconciler.health.outage, world.bridges.feed_reader.outage)
            await until("ready", lambda: all(each.is_up for each in ends))
            answer = await world.client.get("/readyz")
            assert answer.status_code == 200
            (warning,) = answer.json()["warnings"]
            assert warning.startswith("InfluxDB: http://127.0.0.1:1 does not answer")
            assert await number(world, "bridge_influx_up") == 0
            world.ledger.report("alice", gib(4))
            await world.bridges.run_once()
            assert world.panel.get_user("alice")["status"] in {"limited", "disabled"}

    async def test_one_that_never_answers_keeps_nobody_waiting(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            started_at = time.monotonic()
            async with BridgeWorld(
                tmp_path, influxdb_url=url, influxdb_token="a-token"
            ).serving() as world:
                await world.use("alice", external_bytes=gib(7), panel_bytes=gib(1))
                asked = asyncio.create_task(asyncio.to_thread(silent.accept))
                async with asyncio.timeout(120):
                    connection, _ = await asked
                world.ledger.report("alice", gib(4))
                await world.bridges.run_once()
                assert world.panel.get_user("alice")["status"] in {"limited", "disabled"}
                assert (await world.client.get("/healthz")).status_code == 200
            assert time.monotonic() - started_at < 15  # less than the writer's own patience
            connection.close()

    async def test_a_defect_there_is_a_warning_and_limits_are_kept(self, tmp_path, monkeypatch):
        world = BridgeWorld(tmp_path, influxdb_url="http://127.0.0.1:1", influxdb_token="a-token")

        async def break_down(self):
            raise ZeroDivisionError("a defect")

        monkeypatch.setattr("marzban_bridge.timeseries.writer.TimeSeriesWriter.step", break_down)
        async with world.serving():
            await world.use("alice", external_bytes=gib(7))
            assert world.panel.get_user("alice")["data_limit"] == gib(3)
            (warning,) = (await world.client.get("/readyz")).json()["warnings"]
            assert "a defect" in warning
            assert world.loop_failures == []
