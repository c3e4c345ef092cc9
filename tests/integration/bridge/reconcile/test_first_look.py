"""What a bridge without any user says of its panel in the first second, and where it says so."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from urllib.parse import parse_qs

import pytest

from marzban_bridge.cli.main import main
from marzban_bridge.config.settings import Settings
from tests.support.bridge.bridge_world import PASSWORD, BridgeWorld, until
from tests.support.fixed_answers import Server, serving

JSON = [(b"content-type", b"application/json")]
HTML = [(b"content-type", b"text/html")]
CHALLENGE = b"<!DOCTYPE html><title>Just a moment...</title>"
SYSTEM = {"version": "0.8.4", "total_user": 0}


def marzban(**changes):
    """An ASGI application that signs everybody in with the right password, but for the changes."""
    answers = {
        "/api/admin": (200, JSON, {"username": "root", "is_sudo": True}),
        "/api/system": (200, JSON, SYSTEM),
    } | {f"/api/{path}": answer for path, answer in changes.items()}

    async def app(scope, receive, send):
        body = (await receive()).get("body", b"")
        status, headers, content = answers.get(scope["path"], (404, JSON, {"detail": "Not Found"}))
        if scope["path"] == "/api/admin/token" and "token" not in changes:
            is_right = parse_qs(body.decode()).get("password") == [PASSWORD]
            status = 200 if is_right else 401
            content = {"access_token": "t"} if is_right else {"detail": "Incorrect"}
            headers = JSON
        if scope["path"] == "/api/admin/token" and "token" in changes:
            status, headers, content = changes["token"]
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": raw})

    return app


@asynccontextmanager
async def first_look(folder, app, **settings):
    """Yield a bridge that has looked at its panel once; nothing was ever reported to it."""
    world = BridgeWorld(folder, **settings)
    world.panel_app = app
    async with world.serving():
        reconciler = world.bridge.reconciler
        async with asyncio.timeout(120):
            while reconciler.health.outage.reason == "not reached yet":
                await asyncio.sleep(0)
        yield world


UNREADY = [
    (
        "a wrong password",
        marzban(),
        {"marzban_password": "wrong"},
        "check MARZBAN_USERNAME and MARZBAN_PASSWORD",
    ),
    (
        "a challenge page instead of the sign-in",
        marzban(token=(403, HTML, CHALLENGE)),
        {},
        "this is no wrong password",
    ),
    ("a challenge page with 200", marzban(token=(200, HTML, CHALLENGE)), {}, "let the bridge's"),
    (
        "a challenge page after the sign-in",
        marzban(admin=(403, HTML, CHALLENGE)),
        {},
        "this is no wrong password",
    ),
    ("a website", marzban(token=(404, HTML, b"<html>")), {}, "the panel's own address"),
    ("another API", marzban(token=(404, JSON, {})), {}, "there is neither Marzban nor"),
    (
        "a sign-in of another program",
        marzban(token=(200, JSON, {"token": "t"})),
        {},
        "is MARZBAN_URL a Marzban panel",
    ),
    ("another program behind a sign-in", marzban(admin=(404, JSON, {})), {}, "is MARZBAN_URL a"),
    ("an admin of another shape", marzban(admin=(200, JSON, {"id": 1})), {}, "is MARZBAN_URL a"),
    ("a panel that is down", marzban(token=(502, HTML, b"<html>")), {}, "answers 502"),
    ("a moved panel", marzban(token=(301, [(b"location", b"https://p/")], b"")), {}, "redirect to"),
]


@pytest.mark.parametrize(
    ("app", "settings", "words"),
    [case[1:] for case in UNREADY],
    ids=[case[0] for case in UNREADY],
)
async def test_what_is_wrong_is_said_in_readyz_and_the_log(tmp_path, caplog, app, settings, words):
    with caplog.at_level(logging.INFO, "marzban_bridge"):
        async with first_look(tmp_path, app, **settings) as world:
            answer = await world.client.get("/readyz")
            metrics = (await world.client.get("/metrics")).text
    assert answer.status_code == 503
    (reason,) = answer.json()["reasons"]
    assert reason.startswith("panel: ")
    assert words in reason
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 1
    assert words in said[0]
    assert "bridge_panel_up 0.0" in metrics
    assert PASSWORD not in caplog.text + answer.text


WARNED = [
    (
        "no sudo",
        marzban(admin=(200, JSON, {"username": "shop", "is_sudo": False})),
        "no sudo admin",
    ),
    (
        "a later version",
        marzban(system=(200, JSON, SYSTEM | {"version": "1.0.0"})),
        "Marzban 1.0.0",
    ),
    ("no version", marzban(system=(404, JSON, {})), "does not say its version"),
    ("odd numbers", marzban(system=(200, JSON, {"version": 8})), "does not say its version"),
]


@pytest.mark.parametrize(
    ("app", "words"), [case[1:] for case in WARNED], ids=[case[0] for case in WARNED]
)
async def test_what_is_odd_is_a_warning_and_keeps_nobody_from_work(tmp_path, caplog, app, words):
    with caplog.at_level(logging.WARNING, "marzban_bridge"):
        async with first_look(tmp_path, app) as world:
            await until("the collector", lambda: world.bridges.feed_reader.outage.is_up)
            answer = await world.client.get("/readyz")
    assert answer.status_code == 200
    (warning,) = answer.json()["warnings"]
    assert words in warning
    assert words in caplog.text


async def test_a_panel_as_it_should_be_is_said_to_be_one(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "marzban_bridge"):
        async with first_look(tmp_path, marzban()) as world:
            await until("the collector", lambda: world.bridges.feed_reader.outage.is_up)
            answer = await world.client.get("/readyz")
    assert answer.json() == {
        "status": "ok",
        "service": "marzban-bridge",
        "reasons": [],
        "warnings": [],
        "panels": {"default": "Marzban 0.8.4"},
        "enforcement": "limit",
    }
    assert "panel: signed in as root; it is Marzban 0.8.4" in caplog.text


async def test_without_users_each_pass_asks_the_panel_once_and_finds_what_went_wrong(tmp_path):
    asked = []
    answers = {"is_down": False}
    healthy = marzban()

    async def app(scope, receive, send):
        asked.append(scope["path"])
        if answers["is_down"]:
            await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await healthy(scope, receive, send)

    async with first_look(tmp_path, app, pass_seconds=0.05) as world:
        await until("some passes", lambda: asked.count("/api/admin") >= 4)
        assert asked.count("/api/admin/token") == asked.count("/api/system") == 1
        outage = world.bridge.reconciler.health.outage
        assert outage.is_up
        answers["is_down"] = True
        await until("the outage", lambda: not outage.is_up)
        answers["is_down"] = False
        await until("its end", lambda: outage.is_up)
        assert asked.count("/api/system") == 2, "it may be another version after an outage"


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """Settings for commands, without a `.env`; nothing but the panel is missing."""
    monkeypatch.chdir(tmp_path)
    for variable in Settings.variables():
        monkeypatch.delenv(variable.name, raising=False)
    for name, value in {
        "MARZBAN_USERNAME": "root",
        "MARZBAN_PASSWORD": PASSWORD,
        "BRIDGE_STORE": str(tmp_path / "bridge.sqlite3"),
        "BRIDGE_PORT": "0",
        "COLLECTOR_URL": "http://127.0.0.1:1",
        "COLLECTOR_PORT": "0",
        "LEDGER_URL": f"sqlite:///{tmp_path}/ledger.sqlite3",
    }.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


SAYINGS = [
    ("http://127.0.0.1:1", "connection refused"),
    ("http://no-such-host.invalid", "cannot be resolved"),
    (None, "this is no wrong password"),
]


@pytest.mark.parametrize(("url", "words"), SAYINGS)
def test_plan_says_what_is_wrong_with_the_panel(environment, capsys, url, words):
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with serving(Server(403, [("content-type", "text/html")], CHALLENGE)) as server:
        environment.setenv("MARZBAN_URL", url or server.url)
        assert main(["plan"]) == 1
    root.handlers[:] = handlers
    root.setLevel(level)
    error = capsys.readouterr().err
    assert words in error
    assert PASSWORD not in error


@pytest.mark.parametrize("command", ["up", "run"])
def test_up_and_run_say_it_among_their_first_lines(environment, tmp_path, command):
    with serving(Server(403, [("content-type", "text/html")], CHALLENGE)) as server:
        environment.setenv("MARZBAN_URL", server.url)
        process = subprocess.Popen(
            [sys.executable, "-m", "marzban_bridge", command],
            env=dict(os.environ),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "ERROR" in line and "panel" in line:
                break
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    assert len(lines) <= 12
    assert "this is no wrong password" in lines[-1], "".join(lines)
    assert PASSWORD not in "".join(lines)
