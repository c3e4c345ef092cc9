"""The collector keeps to its own OpenAPI document, whoever calls and with whatever."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from collector.app import create_app
from collector.settings import Settings
from tests.support.collector.collectors import AS_ADMIN, AS_REPORTER, CollectorWorld
from tests.support.framing import drop_framing

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
schema = schemathesis.openapi.from_dict(create_app(Settings()).openapi())


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A collector on a port of its own, served from a thread."""
    world = CollectorWorld(
        path=tmp_path_factory.mktemp("collector") / "ledger.sqlite3",
        environment={"MARZBAN_URL": "http://panel.test"},
    )
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(world.app, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(30)
    listener.close()


@pytest.mark.parametrize(
    "headers", [{}, AS_REPORTER, AS_ADMIN], ids=["stranger", "reporter", "admin"]
)
@schema.parametrize()
@settings(
    max_examples=20,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_a_documented_one(case, headers, url):
    if isinstance(case.query, dict) and case.query.get("wait"):
        case.query["wait"] = 0  # waiting is held elsewhere; here it would only cost time
    drop_framing(case)
    response = case.call(base_url=url, headers=headers)
    case.validate_response(response, checks=CHECKS)
    assert response.status_code not in {500, 502, 504}
