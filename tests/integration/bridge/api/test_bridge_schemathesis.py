"""The bridge keeps to its own OpenAPI document, whoever calls and with whatever."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from marzban_bridge.app import create_app
from marzban_bridge.clock import utc_now
from marzban_bridge.config.settings import Settings
from marzban_bridge.simulator.http.app import create_simulator_app
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from tests.support.bridge.bridge_builders import gib
from tests.support.collector.collectors import ADMIN_KEY, AS_REPORTER, CollectorWorld, wire
from tests.support.framing import drop_framing

PASSWORD = "a-panel-password"
SECRET = "a-webhook-secret"
TOKEN = "a-token-that-grafana-adds"
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
schema = schemathesis.openapi.from_dict(create_app(Settings()).openapi())


@contextmanager
def served(app) -> Iterator[str]:
    """Serve an application on a port of its own, from a thread; yield its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, SimulatedPanel, object]]:
    """A bridge between a simulated panel and a real collector, each on a port of its own."""
    folder = tmp_path_factory.mktemp("bridge")
    panel = SimulatedPanel(clock=utc_now, admins={"root": (PASSWORD, True)})
    panel.add_admin("shop", password=PASSWORD)
    for name, owner in (("alice", "shop"), ("carol", "root")):
        panel.create_user(name, by=owner, data_limit=gib(10))
    panel_app = create_simulator_app(panel)
    collector = CollectorWorld(path=folder / "ledger.sqlite3", now_millis=1_800_000_000_000)
    with ExitStack() as stack:
        collector_url = stack.enter_context(served(collector.app))
        bridge = create_app(
            Settings(
                marzban_url=stack.enter_context(served(panel_app)),
                marzban_username="root",
                marzban_password=PASSWORD,
                collector_url=collector_url,
                collector_admin_key=ADMIN_KEY,
                webhook_secret=SECRET,
                action_token=TOKEN,
                action_logins=("*",),
                store=folder / "bridge.sqlite3",
            )
        )
        url = stack.enter_context(served(bridge))
        reports = [wire(name) for name in ("alice", "carol", "nobody")]
        httpx.post(f"{collector_url}/v1/reports", json=reports, headers=AS_REPORTER)
        yield url, panel, panel_app.state.faults
        # what waits for news of the feed is sent home before the collector is asked to end
        collector.app.state.collector.ingest.commits.close()


def headers_of(panel: SimulatedPanel, caller: str) -> dict[str, str]:
    if caller == "stranger":
        return {}
    token = panel.sign_in(caller, PASSWORD)
    secrets = {"x-webhook-secret": SECRET, "x-bridge-token": TOKEN}
    return {"authorization": f"Bearer {token}"} | secrets


@pytest.mark.parametrize(
    ("caller", "is_panel_down"),
    [("stranger", False), ("shop", False), ("root", False), ("root", True)],
    ids=["stranger", "reseller", "sudo", "panel down"],
)
@schema.parametrize()
@settings(
    max_examples=4,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_a_documented_one(case, caller, is_panel_down, world):
    url, panel, faults = world
    headers = headers_of(panel, caller)
    faults.is_down = is_panel_down
    drop_framing(case)
    response = case.call(base_url=url, headers=headers)
    case.validate_response(response, checks=CHECKS)
    if response.status_code == 503:
        assert is_panel_down or case.path == "/readyz"
    else:
        assert response.status_code < 500
