"""A simulated PasarGuard keeps to the interface description, whoever calls and with whatever."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import response_schema_conformance

from marzban_bridge.simulator.http.app import create_simulator_app
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from tests.recordings.panels import PASARGUARD, UNDOCUMENTED
from tests.support.clocks import ManualClock
from tests.support.framing import drop_framing

schema = schemathesis.openapi.from_dict(PASARGUARD.openapi)


@pytest.fixture(scope="module")
def panel() -> Iterator[tuple[str, SimulatedPanel]]:
    """A simulated panel on a port of its own, served from a thread."""
    simulated = SimulatedPanel(
        kind="pasarguard",
        clock=ManualClock(),
        admins={"boss": ("pw", True), "shop": ("pw", False)},
        token_minutes=0,
    )
    for name in ("alice", "bob"):
        simulated.create_user(name, by="shop", data_limit=5, next_plan={"data_limit": 7})
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_simulator_app(simulated)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", simulated
    server.should_exit = True
    thread.join(30)
    listener.close()


@pytest.mark.parametrize("caller", ["stranger", "shop", "boss"])
@schema.parametrize()
@settings(
    max_examples=4,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_a_documented_one(case, caller, panel):
    url, simulated = panel
    token = "" if caller == "stranger" else simulated.sign_in(caller, "pw")
    drop_framing(case)
    response = case.call(base_url=url, headers={"authorization": f"Bearer {token}"})
    case.validate_response(response, checks=[response_schema_conformance])
    documented = PASARGUARD.openapi["paths"][case.path][case.method.lower()]["responses"]
    assert str(response.status_code) in documented or response.status_code in UNDOCUMENTED
    if response.status_code == 500:
        assert response.headers.get("connection") == "close", "a failure that is not the panel's"
