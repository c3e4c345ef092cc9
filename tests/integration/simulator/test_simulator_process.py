"""Around the simulated panel: faults, webhooks over HTTP, the process and what it keeps."""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import httpx
import pytest

from marzban_bridge.errors import SettingsError
from marzban_bridge.simulator import run as simulator
from marzban_bridge.simulator.background import Intervals, jobs_running
from marzban_bridge.simulator.http.app import create_simulator_app
from marzban_bridge.simulator.http.delivery import deliver_webhooks
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from marzban_bridge.simulator.panel.webhook_settings import WebhookReceiver
from tests.support.clocks import ManualClock
from tests.support.ports import free_port


@pytest.fixture
def panel():
    return SimulatedPanel(clock=ManualClock())


def arguments(*options):
    parser = argparse.ArgumentParser()
    simulator.add_arguments(parser)
    return parser.parse_args(options)


class TestFaults:
    """Faults on demand and the log of requests."""

    @pytest.fixture
    def app(self, panel):
        return create_simulator_app(panel)

    @pytest.fixture
    async def client(self, app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://panel") as client:
            yield client

    async def test_the_next_requests_fail_as_told_and_do_nothing(self, app, client, panel):
        app.state.faults.fail_next(2, status=503)
        form = {"username": "admin", "password": "admin"}
        statuses = [
            (await client.post("/api/admin/token", data=form)).status_code for _ in range(3)
        ]
        assert statuses == [503, 503, 200]

    async def test_a_panel_that_is_down_answers_nothing_of_its_own(self, app, client):
        app.state.faults.is_down = True
        assert (await client.get("/api/admin")).status_code == 502
        app.state.faults.is_down = False
        assert (await client.get("/api/admin")).status_code == 401

    async def test_lists_can_be_refused_and_nothing_else(self, app, client):
        app.state.faults.list_status = 414
        assert (await client.get("/api/users")).status_code == 414
        assert (await client.get("/api/user/alice")).status_code == 401
        app.state.faults.list_status = 0
        assert (await client.get("/api/users")).status_code == 401

    async def test_a_write_can_be_carried_out_after_it_was_given_up(self, app, client, panel):
        panel.create_user("zoe", data_limit=5)
        headers = {"authorization": f"Bearer {panel.sign_in('admin', 'admin')}"}
        app.state.faults.late_put_seconds = 0.05
        answer = await client.put("/api/user/zoe", json={"data_limit": 7}, headers=headers)
        assert (answer.status_code, panel.get_user("zoe")["data_limit"]) == (504, 5)
        async with asyncio.timeout(120):
            while app.state.faults.count("PUT", "/api/user/zoe") < 2:  # the 504 is one
                await asyncio.sleep(0)
        assert panel.get_user("zoe")["data_limit"] == 7

    async def test_a_delayed_panel_can_time_out(self, app, client):
        app.state.faults.delay_seconds = 60
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await client.get("/api/admin")

    async def test_requests_are_remembered(self, app, client, panel):
        panel.create_user("alice")
        await client.get("/api/user/alice")
        await client.put("/api/user/alice", json={})
        await client.put("/api/user/alice", json={})
        faults = app.state.faults
        assert faults.count("PUT", "/api/user/") == 2
        assert faults.count("PUT", "/api/admin") == 0
        assert [seen.status for seen in faults.requests] == [401, 401, 401]
        assert {seen.at for seen in faults.requests} == {panel.clock()}

    async def test_a_failure_of_the_panel_itself_is_plain_text_on_a_closing_connection(
        self, client, panel
    ):
        panel.create_user("alice")
        panel.users["alice"].created_at = None
        bearer = {"authorization": f"Bearer {panel.sign_in('admin', 'admin')}"}
        answer = await client.get("/api/user/alice", headers=bearer)
        assert (answer.status_code, answer.text) == (500, "Internal Server Error")
        assert answer.headers["connection"] == "close"


class Receiver:
    """Takes webhooks, and answers with the statuses it is given, then 200."""

    def __init__(self, *statuses) -> None:
        self.statuses = list(statuses)
        self.requests = []

    def __call__(self, request):
        self.requests.append(request)
        status = self.statuses.pop(0) if self.statuses else 200
        if status is None:
            raise httpx.ConnectError("nobody there")
        return httpx.Response(status)

    def client(self):
        return httpx.AsyncClient(transport=httpx.MockTransport(self))


def send_to(panel, *receivers):
    panel.webhook_settings = replace(panel.webhook_settings, receivers=receivers)


async def test_a_batch_is_one_array_with_the_secret(panel):
    panel.create_user("alice")
    panel.create_user("bob")
    receiver = Receiver()
    send_to(panel, WebhookReceiver(url="http://bridge/hook", secret="s3"))
    async with receiver.client() as client:
        assert await deliver_webhooks(panel, client) == 2
        assert await deliver_webhooks(panel, client) == 0
    [request] = receiver.requests
    assert request.headers["x-webhook-secret"] == "s3"
    assert [event["username"] for event in json.loads(request.content)] == ["alice", "bob"]


@pytest.mark.parametrize("failure", [401, 500, None])
async def test_a_batch_that_was_not_accepted_is_sent_again(panel, failure):
    panel.create_user("alice")
    receiver = Receiver(failure)
    send_to(panel, WebhookReceiver(url="http://bridge/hook"))
    async with receiver.client() as client:
        assert await deliver_webhooks(panel, client) == 0
        panel.clock.advance(minutes=3)
        assert await deliver_webhooks(panel, client) == 1
    assert "x-webhook-secret" not in receiver.requests[0].headers
    assert [json.loads(request.content)[0]["tries"] for request in receiver.requests] == [0, 1]


async def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_the_jobs_run_by_themselves_and_end_with_the_context(panel):
    quick = Intervals(review_seconds=0.01, periodic_reset_seconds=0.01, webhook_seconds=0.01)
    panel.create_user("alice", data_limit=10, data_limit_reset_strategy="day")
    panel.use_traffic("alice", 10)
    nowhere = WebhookReceiver(url="http://127.0.0.1:9/")
    async with jobs_running(panel, intervals=quick, receiver=nowhere):
        await until(lambda: panel.users["alice"].status == "limited")
        panel.clock.advance(days=1)
        await until(lambda: panel.users["alice"].used_traffic == 0)
    assert len(asyncio.all_tasks()) == 1


def test_users_to_begin_with_come_from_a_file(tmp_path):
    users = tmp_path / "users.json"
    users.write_text(
        json.dumps(
            {
                "admins": [{"username": "res1", "password": "pw"}],
                "users": [
                    {"username": "alice", "data_limit": 10, "used_traffic": 3},
                    {"username": "bob", "owner": "res1", "status": "active"},
                ],
            }
        )
    )
    panel = simulator.open_panel(arguments("--users", str(users), "--username", "root"))
    assert panel.get_user("alice")["used_traffic"] == 3
    assert panel.get_user("bob")["admin"]["username"] == "res1"
    assert panel.environment_admin.username == "root"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"users": [{"data_limit": 1}]}',
        '{"users": [{"username": "a"}]}',
        '{"users": [{"username": "alice", "owner": "nobody"}]}',
        '{"users": ["alice"]}',
    ],
)
def test_a_file_that_describes_no_users_is_an_error_that_names_it(tmp_path, content):
    users = tmp_path / "users.json"
    users.write_text(content)
    with pytest.raises(SettingsError, match=r"users\.json"):
        simulator.open_panel(arguments("--users", str(users)))


@contextmanager
def process(*options):
    """Run the simulated panel as a process of its own, and stop it as a service manager would."""
    code = (
        "import argparse, sys; from marzban_bridge.simulator import run as simulator;"
        "parser = argparse.ArgumentParser(); simulator.add_arguments(parser);"
        "sys.exit(simulator.run(parser.parse_args()))"
    )
    running = subprocess.Popen([sys.executable, "-c", code, *options])
    try:
        yield running
    finally:
        running.terminate()
        assert running.wait(timeout=120) == 0


def until_it_answers(client):
    deadline = time.monotonic() + 20
    while True:
        try:
            return client.get("/api/admin")
        except httpx.ConnectError:
            assert time.monotonic() < deadline, "the simulated panel does not answer"
            time.sleep(0.02)


def test_a_restarted_process_knows_its_users_and_still_takes_their_tokens(tmp_path):
    port = free_port()
    options = ("--port", str(port), "--state", str(tmp_path / "panel.json"))
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        with process(*options):
            until_it_answers(client)
            form = {"username": "admin", "password": "admin"}
            token = client.post("/api/admin/token", data=form).json()["access_token"]
            client.headers["authorization"] = f"Bearer {token}"
            body = {"username": "alice", "proxies": {"vless": {}}, "data_limit": 7}
            url = client.post("/api/user", json=body).json()["subscription_url"]
        with process(*options):
            until_it_answers(client)
            assert client.get("/api/user/alice").json()["data_limit"] == 7
            assert client.get(f"{url}/info").json()["username"] == "alice"


def test_a_process_goes_on_as_pasarguard_with_a_marzbans_state_and_not_back(tmp_path):
    port, state = free_port(), str(tmp_path / "panel.json")
    options = ("--port", str(port), "--state", state)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        with process(*options):
            until_it_answers(client)
            form = {"username": "admin", "password": "admin"}
            token = client.post("/api/admin/token", data=form).json()["access_token"]
            client.headers["authorization"] = f"Bearer {token}"
            body = {"username": "alice", "proxies": {"vless": {}}, "data_limit": 7}
            url = client.post("/api/user", json=body).json()["subscription_url"]
        with process(*options, "--kind", "pasarguard"):
            until_it_answers(client)
            assert client.get("/api/system").json()["version"] == "5.2.1"
            assert client.get("/api/user/alice").json()["data_limit"] == 7
            assert client.get(f"{url}/info").json()["username"] == "alice"
    with pytest.raises(SettingsError, match=r"panel\.json: it is the copy of a pasarguard"):
        simulator.open_panel(arguments("--state", state))


def test_a_kind_that_is_none_is_refused_with_those_there_are(capsys):
    with pytest.raises(SystemExit):
        arguments("--kind", "3x-ui")
    assert "choose from 'marzban', 'pasarguard'" in capsys.readouterr().err


async def test_receivers_are_taken_from_settings_while_the_jobs_run():
    panel = SimulatedPanel(clock=ManualClock(), kind="pasarguard", sends_webhooks=False)
    quick = Intervals(review_seconds=60, periodic_reset_seconds=60, webhook_seconds=0.01)
    async with jobs_running(panel, intervals=quick):
        panel.create_user("unheard")
        assert len(panel.webhooks) == 0
        panel.webhook_settings = replace(
            panel.webhook_settings,
            enable=True,
            deliveries=1,
            receivers=(WebhookReceiver(url="http://127.0.0.1:9/"),),
        )
        panel.create_user("alice")
        await until(lambda: len(panel.webhooks) == 0)


async def test_an_address_that_is_taken_is_an_error_that_names_it(panel):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"127.0.0.1:{port}"):
            await simulator.serve(panel, arguments("--port", str(port)))
