"""The bridge's command line: what an operator types and reads, and how its processes end."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

from marzban_bridge.cli.main import main
from marzban_bridge.clock import utc_now
from marzban_bridge.config.settings import Settings
from marzban_bridge.simulator.http.app import create_simulator_app
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from marzban_bridge.store.store import Store
from tests.support import programs
from tests.support.bridge.bridge_builders import gib
from tests.support.collector.collectors import ADMIN_KEY, AS_REPORTER, CollectorWorld, wire
from tests.support.ports import free_port

PASSWORD = "a-panel-password"
NOBODY_LISTENS = "http://127.0.0.1:1"
DEADLINE_SECONDS = 120


def poll(what, is_so):
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (value := is_so()):
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.02)
    return value


@contextmanager
def served(app) -> Iterator[str]:
    """Serve an application on a port of its own, from a thread; yield its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    poll("a server", lambda: server.started)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder without `.env`, an environment without settings, and the log as it was."""
    monkeypatch.chdir(tmp_path)
    for variable in Settings.variables():
        monkeypatch.delenv(variable.name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("BRIDGE_STORE", str(tmp_path / "bridge.sqlite3"))
    monkeypatch.setenv("BRIDGE_PORT", "1")
    # the servers of the tests run in this process, and what they log is not the command's
    monkeypatch.setattr(logging.getLogger("uvicorn"), "propagate", False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield tmp_path
    root.handlers[:] = handlers
    root.setLevel(level)


class Place:
    """A panel and a collector that serve, and what an operator sees of them."""

    def __init__(self, folder: Path, panel: SimulatedPanel, collector_url: str, capsys) -> None:
        self.store = folder / "bridge.sqlite3"
        self.panel = panel
        self.collector_url = collector_url
        self._capsys = capsys

    def report(self, *usernames: str, amount_bytes: int) -> None:
        reports = [
            wire(name, bytes_uploaded=0, bytes_downloaded=amount_bytes) for name in usernames
        ]
        answer = httpx.post(f"{self.collector_url}/v1/reports", json=reports, headers=AS_REPORTER)
        assert answer.status_code == 200, answer.text

    def run(self, *command: str, code: int = 0) -> str:
        """Run a command and return what it printed."""
        self._capsys.readouterr()
        assert main(command) == code
        captured = self._capsys.readouterr()
        assert "Traceback" not in captured.err
        return captured.out if code == 0 else captured.out + captured.err


@pytest.fixture
def place(folder, monkeypatch, capsys) -> Iterator[Place]:
    panel = SimulatedPanel(clock=utc_now, admins={"root": (PASSWORD, True)})
    collector = CollectorWorld(
        path=folder / "ledger.sqlite3", now_millis=int(time.time() * 1000), environment={}
    )
    with ExitStack() as stack:
        monkeypatch.setenv("MARZBAN_URL", stack.enter_context(served(create_simulator_app(panel))))
        collector_url = stack.enter_context(served(collector.app))
        monkeypatch.setenv("COLLECTOR_URL", collector_url)
        monkeypatch.setenv("MARZBAN_USERNAME", "root")
        monkeypatch.setenv("MARZBAN_PASSWORD", PASSWORD)
        monkeypatch.setenv("COLLECTOR_ADMIN_KEY", ADMIN_KEY)
        yield Place(folder, panel, collector_url, capsys)
        collector.app.state.collector.ingest.commits.close()


@pytest.fixture
def alone(folder, monkeypatch) -> Path:
    """Complete settings with nobody behind them; the path of the store."""
    for name, value in {
        "MARZBAN_URL": NOBODY_LISTENS,
        "MARZBAN_USERNAME": "root",
        "MARZBAN_PASSWORD": PASSWORD,
        "COLLECTOR_URL": NOBODY_LISTENS,
        "COLLECTOR_PORT": "0",
        "LEDGER_URL": f"sqlite:///{folder}/ledger.sqlite3",
    }.items():
        monkeypatch.setenv(name, value)
    return folder / "bridge.sqlite3"


def in_cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


class TestADay:
    """Every command does what it says, without a bridge that runs."""

    def test_a_pass_limits_and_shows_where_everybody_stands(self, place):
        place.panel.create_user("alice", data_limit=gib(10))
        place.report("alice", "nobody-of-that-name", amount_bytes=gib(7))
        out = place.run("once")
        assert place.panel.get_user("alice")["data_limit"] == gib(3)
        rows = [in_cells(line) for line in out.splitlines()]
        assert [
            *("alice", "active", "10.0 GiB", "0 B", "7.00 GiB", "70 %", "3.00 GiB"),
        ] in rows
        assert any(row[:2] == ["nobody-of-that-name", "7.00 GiB"] for row in rows)
        assert "2 users evaluated" in out
        assert place.run("users").splitlines()[0].strip() == "Users"
        events = place.run("events")
        assert "orphan" in events or "nobody-of-that-name" in events

    def test_a_plan_changes_nothing(self, place):
        place.panel.create_user("alice", data_limit=gib(10))
        place.report("alice", amount_bytes=gib(1))
        place.run("once")
        place.panel.modify_user("alice", {"data_limit": gib(20)})
        out = place.run("plan")
        assert any(
            in_cells(line)[:1] == ["alice"] and "19.0 GiB" in line for line in out.splitlines()
        )
        assert place.panel.get_user("alice")["data_limit"] == gib(20)

    def test_a_plan_needs_no_collector(self, place, monkeypatch):
        """A newcomer asks for one before anything else runs."""
        monkeypatch.setenv("COLLECTOR_URL", NOBODY_LISTENS)
        assert "Signed in to" in place.run("plan")

    def test_a_reset_gives_the_quota_back_and_leaves_an_event(self, place):
        place.panel.create_user("alice", data_limit=gib(10))
        place.report("alice", amount_bytes=gib(7))
        place.run("once")
        assert place.run("reset", "alice") == "alice was reset: 0 B used in the new period\n"
        assert place.panel.get_user("alice")["data_limit"] == gib(10)
        events = " ".join(place.run("events", "alice").split())
        kinds = {each["kind"] for each in json.loads(place.run("events", "alice", "--json"))}
        assert "reset" in kinds
        (alice,) = json.loads(place.run("users", "alice", "--json"))
        assert (alice["username"], type(alice["used_bytes"])) == ("alice", int)
        assert "alice" in place.run("users", "alice")
        assert alice in json.loads(place.run("users", "--json"))
        assert isinstance(json.loads(place.run("plan", "--json")), list)
        for command in ("users", "events"):
            assert "did you mean alice?" in place.run(command, "alicee", code=1)
            assert "no user 'zz'" in place.run(command, "zz", code=1)
        assert "reset" in events
        assert "command line" in events

    def test_a_reset_of_all_wants_the_words(self, place, monkeypatch):
        place.panel.create_user("alice", data_limit=gib(10))
        place.report("alice", amount_bytes=gib(7))
        place.run("once")
        for typed in ("yes", ""):
            monkeypatch.setattr("builtins.input", lambda _, typed=typed: typed)
            assert "Nothing was changed." in place.run("reset", "--all", code=1)
        monkeypatch.undo()  # nobody to ask: standard input is at its end

    def test_a_reset_of_all_resets_all(self, place, monkeypatch):
        for name in ("alice", "bob_"):
            place.panel.create_user(name, data_limit=gib(10))
        place.report("alice", "bob_", amount_bytes=gib(7))
        place.run("once")
        monkeypatch.setattr("builtins.input", lambda _: "reset all users")
        assert "2 users with external traffic were reset" in place.run("reset", "--all")
        for name in ("alice", "bob_"):
            assert place.panel.get_user(name)["data_limit"] == gib(10)
        assert "2 users" in place.run("reset", "--all", "--yes")

    def test_nobody_to_type_is_no_confirmation(self, place, monkeypatch):
        def at_end(_):
            raise EOFError

        monkeypatch.setattr("builtins.input", at_end)
        assert "Nothing was changed." in place.run("reset", "--all", code=1)

    def test_a_cleanup_wants_the_word_and_leaves_totals_and_an_event(self, place, monkeypatch):
        place.panel.create_user("alice", data_limit=gib(10))
        place.report("alice", amount_bytes=gib(7))
        place.run("once")
        for typed in ("yes", ""):
            monkeypatch.setattr("builtins.input", lambda _, typed=typed: typed)
            out = place.run("cleanup", "--days", "30", code=1)
            assert "of over 30 days" in out
            assert "Nothing was changed." in out
        assert "cleanup" not in place.run("events")
        monkeypatch.setattr("builtins.input", lambda _: "cleanup")
        assert "0 reports and 0 daily rows older than 30 days were removed" in place.run(
            "cleanup", "--days", "30"
        )
        assert "0 reports" in place.run("cleanup", "--days", "1", "--yes")
        events = " ".join(place.run("events").split())
        assert events.count("cleanup") == 2
        assert "command line" in events
        assert "7.00 GiB" in place.run("users")

    def test_a_release_leaves_the_panel_as_if_the_bridge_had_not_been(self, place):
        place.panel.create_user("alice", data_limit=gib(10))
        place.panel.create_user("used_up", data_limit=gib(5))
        place.report("alice", "used_up", amount_bytes=gib(7))
        place.run("once")
        assert place.panel.get_user("used_up")["status"] == "disabled"
        out = place.run("release")
        assert "2 users were written to" in out
        for name, quota in (("alice", gib(10)), ("used_up", gib(5))):
            user = place.panel.get_user(name)
            assert (user["data_limit"], user["status"]) == (quota, "active")
        assert "0 users were written to" in place.run("release")

    def test_after_a_lost_ledger_a_rebase_keeps_everybodys_usage(self, place, tmp_path_factory):
        place.panel.create_user("alice", data_limit=gib(10))
        place.report("alice", amount_bytes=gib(7))
        place.run("once")
        anew = CollectorWorld(path=tmp_path_factory.mktemp("anew") / "ledger.sqlite3")
        with served(anew.app) as url, pytest.MonkeyPatch.context() as patch:
            patch.setenv("COLLECTOR_URL", url)
            refusal = place.run("once", code=1)
            assert "marzban-bridge rebase" in refusal
            assert any(
                in_cells(line)[:1] == ["alice"] and "7.00 GiB" in line
                for line in place.run("rebase").splitlines()
            )
            place.run("once")
            anew.app.state.collector.ingest.commits.close()
        assert place.panel.get_user("alice")["data_limit"] == gib(3)

    def test_tables_fit_into_80_columns_with_long_names_and_obey_no_markup(self, place):
        long_name = "a_name_of_thirty_two_characters_"
        place.panel.create_user(long_name, data_limit=gib(1))
        place.report(long_name, "[/]", "[bold]x", amount_bytes=gib(3))
        out = place.run("once") + place.run("events") + place.run("plan")
        assert max(len(line.rstrip()) for line in out.splitlines()) <= 80
        for name in ("[/]", "[bold]x"):
            assert name in out
        assert "…" not in out


MISTAKES = [
    ("run", {"MARZBAN_URL": ""}, "MARZBAN_URL, MARZBAN_USERNAME, MARZBAN_PASSWORD must be set"),
    ("once", {"MARZBAN_URL": ""}, "MARZBAN_URL, MARZBAN_USERNAME, MARZBAN_PASSWORD must be set"),
    ("up", {"MARZBAN_URL": ""}, "MARZBAN_URL, MARZBAN_USERNAME, MARZBAN_PASSWORD must be set"),
    ("plan", {"MARZBAN_URL": ""}, "MARZBAN_URL, MARZBAN_USERNAME, MARZBAN_PASSWORD must be set"),
    ("reset alice", {"MARZBAN_URL": ""}, "must be set"),
    ("run", {"BRIDGE_PORT": "eighty"}, "BRIDGE_PORT"),
    ("run", {"BRIDGE_ENFORCEMENT": "[/]"}, "BRIDGE_ENFORCEMENT"),
    ("up", {"COLLECTOR_PORT": "eighty"}, "COLLECTOR_PORT"),
    ("once", {"MARZBAN_URL": "panel.example.com"}, "MARZBAN_URL"),
    ("once", {}, f"the collector at {NOBODY_LISTENS}"),
    ("rebase", {}, f"the collector at {NOBODY_LISTENS}"),
    ("reset alice", {}, f"the panel at {NOBODY_LISTENS}"),
    ("reset --all --yes", {}, f"the panel at {NOBODY_LISTENS}"),
    ("cleanup --days 30 --yes", {"MARZBAN_URL": ""}, "must be set"),
    ("cleanup --days 30 --yes", {}, f"the collector at {NOBODY_LISTENS}"),
    ("users", {}, "there is no bridge store at"),
    ("events", {}, "there is no bridge store at"),
]


@pytest.mark.parametrize(("command", "environment", "words"), MISTAKES)
def test_a_mistake_is_one_line_that_says_what_to_do(
    alone, monkeypatch, capsys, command, environment, words
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
        if name == "MARZBAN_URL" and not value:
            monkeypatch.delenv("MARZBAN_USERNAME")
            monkeypatch.delenv("MARZBAN_PASSWORD")
    assert main(command.split()) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert error.count("\n") == 1
    assert PASSWORD not in error


@pytest.mark.parametrize(
    ("command", "environment", "words"),
    [
        ("once", {"COLLECTOR_ADMIN_KEY": "wrong"}, "COLLECTOR_ADMIN_KEY"),
        ("reset alice", {"MARZBAN_PASSWORD": "wrong"}, "check MARZBAN_USERNAME"),
        ("reset alice", {}, "the panel has no user 'alice'"),
    ],
)
def test_a_refusal_is_one_line_that_says_what_to_do(
    place, monkeypatch, command, environment, words
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    error = place.run(*command.split(), code=1)
    assert error.startswith("error: ")
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "command", ["run", "once", "plan", "users", "events", "release", "rebase", "up"]
)
@pytest.mark.parametrize("damage", ["garbage", "another database", "a folder", "no folder"])
def test_a_store_that_cannot_be_used_is_one_line(
    alone, folder, monkeypatch, capsys, command, damage
):
    path = alone
    if damage == "garbage":
        path.write_bytes(b"this is no database " * 1000)
    elif damage == "another database":
        path = folder / "another.sqlite3"
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("PRAGMA user_version = 1")
            db.execute("CREATE TABLE meta (key TEXT)")
    elif damage == "a folder":
        path.mkdir()
    else:
        (folder / "file").write_text("")
        path = folder / "file" / "bridge.sqlite3"
    monkeypatch.setenv("BRIDGE_STORE", str(path))
    assert main([command]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["users", "events"])
def test_a_store_that_was_emptied_is_one_line_for_who_only_reads(alone, capsys, command):
    alone.write_bytes(b"")
    assert main([command]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("command", ["run", "once", "plan", "release", "rebase", "up"])
def test_a_store_in_use_is_not_written_to_and_can_be_read(alone, capsys, command):
    with closing(Store(alone)):
        assert main([command]) == 1
        assert f"in use by another process (pid {os.getpid()})" in capsys.readouterr().err
        assert main(["users"]) == 0
        assert main(["events"]) == 0


@pytest.mark.parametrize("command", ["run", "up"])
def test_a_taken_address_is_one_line(alone, monkeypatch, capsys, command):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("BRIDGE_PORT", str(port))
        assert main([command]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith(f"error: cannot listen on 127.0.0.1:{port}: ")
    assert not [line for line in lines if "Traceback" in line]


def test_an_unreadable_env_file_is_one_line(folder, capsys):
    (folder / ".env").write_bytes(b"MARZBAN_PASSWORD=\xff\xfe")
    assert main(["once"]) == 1
    assert ".env must be UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["0", "-1", "many", "1" * 30])
def test_a_limit_is_a_count(alone, capsys, limit):
    with pytest.raises(SystemExit) as ended:
        main(["events", "--limit", limit])
    assert ended.value.code == 2
    assert "--limit" in capsys.readouterr().err


@pytest.mark.parametrize("days", ["0", "-1", "36501", "many", "1.5", ""])
def test_a_cleanup_is_of_a_number_of_days(alone, capsys, days):
    with pytest.raises(SystemExit) as ended:
        main(["cleanup", "--yes", f"--days={days}"])
    assert ended.value.code == 2
    assert "--days" in capsys.readouterr().err


def test_a_stranger_on_our_port_is_not_told_the_password(place, monkeypatch):
    told = []

    async def stranger(scope, receive, send):
        if scope["type"] != "http":
            return
        told.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"status": "ok"}'})

    with served(stranger) as url:
        monkeypatch.setenv("BRIDGE_PORT", url.rsplit(":", 1)[1])
        place.run("plan")
    assert told == ["/healthz"]


class Process:
    """A command of the bridge's as a process."""

    def __init__(self, folder: Path, *command: str) -> None:
        self._paths = [folder / f"{name}.txt" for name in ("out", "err")]
        with self._paths[0].open("w") as out, self._paths[1].open("w") as err:
            self._process = programs.start(
                *("marzban_bridge", *command),
                stdout=out,
                stderr=err,
                env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[4])},
            )

    @property
    def out(self) -> str:
        return self._paths[0].read_text()

    @property
    def err(self) -> str:
        return self._paths[1].read_text()

    def until_said(self, pattern: str) -> re.Match[str]:
        def said():
            found = re.search(pattern, self.err)
            assert found or self._process.poll() is None, self.err
            return found

        return poll(pattern, said)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end and return its exit code."""
        self._process.send_signal(number)
        return self._process.wait(DEADLINE_SECONDS)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.HTTPError:
        return False


def test_quotas_of_resellers_from_the_command_line(place):
    """Set, listed, shown, reset and taken away, without a bridge that runs."""
    assert "No reseller has a quota" in place.run("once", code=0) + place.run("resellers")
    place.panel.add_admin("shop", password="a-password")
    place.panel.create_user("alice", by="shop", data_limit=gib(10))
    assert "did you mean shop" in place.run("resellers", "set", "shopp", "--quota", "1GiB", code=1)
    assert "--quota" in place.run("resellers", "set", "shop", code=1)
    out = place.run("resellers", "set", "shop", "--quota", "1.5GiB", "--reset", "never")
    assert "0 B of 1.50 GiB used" in out
    assert "not enforced" in out
    place.report("alice", amount_bytes=gib(3))
    place.run("once")
    assert place.panel.get_user("alice")["status"] == "active"
    rows = [in_cells(line)[:5] for line in place.run("resellers").splitlines()]
    assert ["shop", "1.50 GiB", "3.00 GiB", "200 %", "never"] in rows
    changed = json.loads(place.run("resellers", "set", "shop", "--enforce", "--json"))
    assert (changed["is_cut_off"], changed["used_bytes"]) == (True, gib(3))
    place.run("once")
    assert place.panel.get_user("alice")["status"] == "disabled"
    (shown,) = json.loads(place.run("resellers", "show", "shop", "--json"))
    assert shown == changed
    assert "0 B of 1.50 GiB used" in place.run("resellers", "reset", "shop")
    assert "no quota any more" in place.run("resellers", "unset", "shop")
    assert "no quota" in place.run("resellers", "show", "shop", code=1)
    assert "no quota" in place.run("resellers", "unset", "shop", code=1)
    place.run("once")
    assert place.panel.get_user("alice")["status"] == "active"


@pytest.mark.parametrize("raw", ["5TB", "-1GiB", "2000PiB", "much", ""])
def test_an_amount_that_is_none_is_refused(alone, raw, capsys):
    with pytest.raises(SystemExit):
        main(["resellers", "set", "shop", f"--quota={raw}"])
    assert "such as 5TiB" in capsys.readouterr().err


def test_commands_are_asked_of_a_running_bridge(place, folder, monkeypatch):
    port = free_port()
    monkeypatch.setenv("BRIDGE_PORT", str(port))
    place.panel.create_user("alice", data_limit=gib(10))
    place.report("alice", amount_bytes=gib(7))
    with closing(Process(folder, "run")) as process:
        poll("the bridge", lambda: is_up(f"http://127.0.0.1:{port}"))
        poll("a limit", lambda: place.panel.get_user("alice")["data_limit"] == gib(3))
        assert "Nothing to change" in place.run("plan")
        assert place.run("reset", "alice") == "alice was reset: 0 B used in the new period\n"
        assert place.panel.get_user("alice")["data_limit"] == gib(10)
        assert "1 users with external traffic" in place.run("reset", "--all", "--yes")
        assert "0 reports" in place.run("cleanup", "--days", "30", "--yes")
        assert "alice" in place.run("users")
        assert "root" in place.run("events", "alice")
        assert place.run("rebase", "--restored").count("alice") == 1
        poll("the limit of the quota again", lambda: "Nothing to change" in place.run("plan"))
        assert "the running bridge answers 404" in place.run("reset", "nobody", code=1)
        monkeypatch.setenv("MARZBAN_PASSWORD", "wrong")
        assert "the running bridge answers 401" in place.run("plan", code=1)
        assert process.end() == 0
        assert "Traceback" not in process.err
        assert PASSWORD not in process.out + process.err


def test_a_plan_of_a_running_bridge_begins_with_what_readyz_says(place, folder, monkeypatch):
    port = free_port()
    monkeypatch.setenv("BRIDGE_PORT", str(port))
    place.panel.admins["root"].is_sudo = False
    with closing(Process(folder, "run")) as process:
        process.until_said("no sudo admin")
        poll("the bridge", lambda: is_up(f"http://127.0.0.1:{port}"))
        said = place.run("plan", code=1)
        assert "no sudo admin" in said
        assert "the running bridge answers 403" in said


def test_two_panels_and_one_bridge_in_a_process_of_its_own(place, folder, monkeypatch):
    port = free_port()
    monkeypatch.setenv("BRIDGE_PORT", str(port))
    two = SimulatedPanel(clock=utc_now, admins={"boss": ("of-two", True)}, secret="of two")
    for panel in (place.panel, two):
        panel.create_user("alice", data_limit=gib(10))
    two.create_user("bob", data_limit=gib(10))
    with served(create_simulator_app(two)) as url:
        path = folder / "panels.toml"
        path.write_text(f'[two]\nurl = "{url}"\nusername = "boss"\npassword = "of-two"\n')
        monkeypatch.setenv("BRIDGE_PANELS_FILE", str(path))
        place.report("alice", amount_bytes=gib(1))
        place.report("two/alice", "bob", amount_bytes=gib(7))
        assert place.run("plan").count("Signed in to") == 2
        with closing(Process(folder, "run")) as process:
            poll("the bridge", lambda: is_up(f"http://127.0.0.1:{port}"))
            poll("the first's limit", lambda: place.panel.get_user("alice")["data_limit"] == gib(9))
            poll("the second's limit", lambda: two.get_user("alice")["data_limit"] == gib(3))
            poll("bob's limit", lambda: two.get_user("bob")["data_limit"] == gib(3))
            assert "Nothing to change" in place.run("plan")
            shown = place.run("users")
            assert "two/alice" in shown
            assert re.search(r"^ ?bob ", shown, re.MULTILINE)
            assert "was reset: 0 B used" in place.run("reset", "two/alice")
            assert "was reset: 0 B used" in place.run("reset", "bob")
            assert (
                two.get_user("alice")["data_limit"] == two.get_user("bob")["data_limit"] == gib(10)
            )
            assert place.panel.get_user("alice")["data_limit"] == gib(9)
            assert "boss" in place.run("events", "two/alice")
            assert "two/alice" not in place.run("events", "alice")
            assert "3 users with external traffic" in place.run("reset", "--all", "--yes")
            poll("the limit", lambda: place.panel.get_user("alice")["data_limit"] == gib(10))
            assert process.end() == 0
            assert "Traceback" not in process.err
            assert "of-two" not in process.err
        assert "3 users were written to" in place.run("release"), "the lines are taken out"
        assert "0 users were written to" in place.run("release")


def test_a_fault_that_ends_the_loop_is_no_clean_end_for_a_supervisor(alone, monkeypatch):
    script = (
        "import sys; from marzban_bridge.cli.main import main; from marzban_bridge.reconcile.loop import *\n"
        "async def run(self): raise RuntimeError('the disk is full')\n"
        "Reconciler.run = run; sys.exit(main(['run']))"
    )
    monkeypatch.setenv("BRIDGE_PORT", "0")
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[4])},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert ended.returncode == 1
    assert "the loop stopped: RuntimeError('the disk is full')" in ended.stderr


def test_up_starts_both_and_prints_a_key_once_that_stays_good(folder, monkeypatch):
    for name, value in {
        "MARZBAN_URL": NOBODY_LISTENS,
        "MARZBAN_USERNAME": "root",
        "MARZBAN_PASSWORD": PASSWORD,
        "LEDGER_URL": f"sqlite:///{folder}/ledger.sqlite3",
        "COLLECTOR_PORT": "0",
        "BRIDGE_PORT": "0",
    }.items():
        monkeypatch.setenv(name, value)
    keys: list[str] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        with closing(Process(folder, "up")) as process:
            found = process.until_said(r"up: collector (\S+), bridge (\S+),")
            collector_url, bridge_url = found.groups()
            poll("both", lambda: is_up(collector_url) and is_up(bridge_url))  # noqa: B023 - called here
            keys += re.findall(r"^  (rk_\S+)$", process.out, re.MULTILINE)
            answer = httpx.post(
                f"{collector_url}/v1/reports",
                json=wire("alice", report_id=str(number)),
                headers={"authorization": f"Bearer {keys[0]}"},
            )
            assert answer.status_code == 200, answer.text
            assert (keys[0] in process.out) is (number == signal.SIGTERM)
            assert process.end(number) == 0
            assert "Traceback" not in process.err
            for secret in (keys[0], PASSWORD, (folder / "collector-admin.key").read_text().strip()):
                assert secret not in process.err
    assert len(keys) == 1
    assert stat.S_IMODE((folder / "collector-admin.key").stat().st_mode) == 0o600


def test_up_makes_a_key_anew_when_a_crash_left_its_file_empty(folder, monkeypatch):
    for name, value in {
        "MARZBAN_URL": NOBODY_LISTENS,
        "MARZBAN_USERNAME": "root",
        "MARZBAN_PASSWORD": PASSWORD,
        "LEDGER_URL": f"sqlite:///{folder}/ledger.sqlite3",
        "COLLECTOR_PORT": "0",
        "BRIDGE_PORT": "0",
        "COLLECTOR_REPORTER_KEYS": "agent:a-key-of-twenty-chars",
    }.items():
        monkeypatch.setenv(name, value)
    (folder / "collector-admin.key").write_text("")
    with closing(Process(folder, "up")) as process:
        process.until_said("up: collector")
        assert len((folder / "collector-admin.key").read_text()) > 40
        assert not (folder / "first-reporter.key").exists()
        assert process.out == ""
        assert process.end() == 0


def test_up_with_a_ledger_in_use_says_so_without_a_traceback(place, folder, monkeypatch, capsys):
    monkeypatch.setenv("LEDGER_URL", f"sqlite:///{folder}/ledger.sqlite3")
    monkeypatch.setenv("COLLECTOR_PORT", "0")
    monkeypatch.setenv("BRIDGE_PORT", "0")
    with closing(Process(folder, "up")) as process:
        assert process._process.wait(DEADLINE_SECONDS) == 1
        assert "in use by another collector" in process.err
        assert "Traceback" not in process.err


@pytest.mark.parametrize("command", ["rebase", "release", "once"])
def test_what_up_is_stopped_for_brings_its_collector_along(folder, monkeypatch, capsys, command):
    """As `up` is used: no COLLECTOR_ADMIN_KEY, and nobody answers at COLLECTOR_URL."""
    panel = SimulatedPanel(clock=utc_now, admins={"root": (PASSWORD, True)})
    panel.create_user("alice", data_limit=gib(10))
    with served(create_simulator_app(panel)) as panel_url:
        for name, value in {
            "MARZBAN_URL": panel_url,
            "MARZBAN_USERNAME": "root",
            "MARZBAN_PASSWORD": PASSWORD,
            "LEDGER_URL": f"sqlite:///{folder}/ledger.sqlite3",
            "COLLECTOR_PORT": "0",
            "BRIDGE_PORT": "0",
            "COLLECTOR_ADMIN_KEY": "",
            "COLLECTOR_URL": NOBODY_LISTENS,
        }.items():
            monkeypatch.setenv(name, value)
        with closing(Process(folder, "up")) as process:
            (url,) = process.until_said(r"up: collector (\S+),").groups()
            key = poll("a key", lambda: re.search(r"^  (rk_\S+)$", process.out, re.MULTILINE))[1]
            body = wire("alice", bytes_uploaded=0, bytes_downloaded=gib(1))
            headers = {"authorization": f"Bearer {key}"}
            assert httpx.post(f"{url}/v1/reports", json=body, headers=headers).status_code == 200
            poll("a published limit", lambda: panel.get_user("alice")["data_limit"] == gib(9))
            capsys.readouterr()
            assert main([command]) == 1
            said = capsys.readouterr().err
            assert "in use by another process (pid" in said
            assert "Traceback" not in said
            assert process.end() == 0
        assert main([command]) == 0
        expected = gib(10) if command == "release" else gib(9)
        assert panel.get_user("alice")["data_limit"] == expected


def test_with_up_users_of_all_panels_of_the_file_may_report_for_themselves(folder, monkeypatch):
    panels = [
        SimulatedPanel(clock=utc_now, kind=kind, admins={"root": (PASSWORD, True)}, secret=kind)
        for kind in ("marzban", "pasarguard")
    ]
    for panel in panels:
        panel.create_user("alice", data_limit=gib(10))
    with ExitStack() as stack:
        urls = [stack.enter_context(served(create_simulator_app(each))) for each in panels]
        table = {"url": urls[1], "username": "root", "password": PASSWORD}
        (folder / "panels.toml").write_text(
            "[two]\n" + "".join(f'{key} = "{value}"\n' for key, value in table.items())
        )
        for name, value in {
            "MARZBAN_URL": urls[0],
            "MARZBAN_USERNAME": "root",
            "MARZBAN_PASSWORD": PASSWORD,
            "BRIDGE_PANELS_FILE": str(folder / "panels.toml"),
            "LEDGER_URL": f"sqlite:///{folder}/ledger.sqlite3",
            "COLLECTOR_PORT": "0",
            "BRIDGE_PORT": "0",
        }.items():
            monkeypatch.setenv(name, value)
        process = stack.enter_context(closing(Process(folder, "up")))
        (url,) = process.until_said(r"up: collector (\S+),").groups()
        link = panels[1].get_user("alice")["subscription_url"]
        body = wire(link, bytes_uploaded=0, bytes_downloaded=gib(1))
        assert httpx.post(f"{url}/api/xpert/traffic-webhook", json=body).status_code == 200
        poll("a published limit", lambda: panels[1].get_user("alice")["data_limit"] == gib(9))
        assert panels[0].get_user("alice")["data_limit"] == gib(10)
        assert process.end() == 0


def test_what_all_users_are_about_is_done_beside_an_up_that_runs(folder, monkeypatch, capsys):
    """No COLLECTOR_ADMIN_KEY, nobody at COLLECTOR_URL: the bridge that runs has what it takes."""
    panel = SimulatedPanel(clock=utc_now, admins={"root": (PASSWORD, True)})
    for name in ("alice", "used_up"):
        panel.create_user(name, data_limit=gib(10))
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    def said_by(*command):
        capsys.readouterr()
        assert main(command) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    with served(create_simulator_app(panel)) as panel_url:
        for name, value in {
            "MARZBAN_URL": panel_url,
            "MARZBAN_USERNAME": "root",
            "MARZBAN_PASSWORD": PASSWORD,
            "LEDGER_URL": f"sqlite:///{folder}/ledger.sqlite3",
            "COLLECTOR_PORT": "0",
            "BRIDGE_PORT": str(port),
            "COLLECTOR_ADMIN_KEY": "",
            "COLLECTOR_URL": NOBODY_LISTENS,
            "BRIDGE_PASS_SECONDS": "1",
        }.items():
            monkeypatch.setenv(name, value)
        with closing(Process(folder, "up")) as process:
            (collector_url,) = process.until_said(r"up: collector (\S+),").groups()
            key = poll("a key", lambda: re.search(r"^  (rk_\S+)$", process.out, re.MULTILINE))[1]

            def report(name, amount_bytes):
                body = wire(name, bytes_uploaded=0, bytes_downloaded=amount_bytes)
                headers = {"authorization": f"Bearer {key}"}
                answer = httpx.post(f"{collector_url}/v1/reports", json=body, headers=headers)
                assert answer.status_code == 200

            report("alice", gib(1))
            report("used_up", gib(11))
            poll("a limit", lambda: panel.get_user("alice")["data_limit"] == gib(9))
            poll("a crossing", lambda: panel.get_user("used_up")["status"] == "disabled")
            assert "Users whose baseline moved" in said_by("rebase")
            rebased = said_by("rebase", "--restored")
            assert [cells[0] for line in rebased.splitlines() if len(cells := in_cells(line)) > 6][
                1:
            ] == ["alice", "used_up"]
            report("alice", gib(1))
            poll("a limit since", lambda: panel.get_user("alice")["data_limit"] == gib(8))
            released = said_by("release").splitlines()
            assert sorted(released[:2]) == [
                f"{name}: quota and status restored as the admin set them"
                for name in ("alice", "used_up")
            ]
            assert released[2] == (
                "2 users were written to; the bridge's limits and note lines are gone"
            )
            assert "changes nothing until it is restarted" in released[3]
            assert "0 users were written to" in said_by("release")
            report("alice", gib(1))
            ready = httpx.get(f"{url}/readyz")
            assert ready.status_code == 503
            assert "all users have their quotas back" in ready.text
            process.until_said("continuing after a rebase")
            process.until_said("all users have their quotas back")
            assert process.end() == 0
            assert "Traceback" not in process.err
        users = [panel.get_user(name) for name in ("alice", "used_up")]
        assert [(each["status"], each["data_limit"]) for each in users] == [("active", gib(10))] * 2
        with closing(Process(folder, "up")):
            poll("a bridge that works", lambda: panel.get_user("alice")["data_limit"] == gib(7))


SECRET = "a-webhook-secret-of-this-test"
PATIENCE = float(DEADLINE_SECONDS)


class TestDoctor:
    """`doctor`: asked of real programs; what it makes of answers is in test_findings.py."""

    def lines(self, place, *arguments, code=0) -> dict[str, tuple[str, str]]:
        """Run it; return level and text by subject and check."""
        said = place.run("doctor", "--json", *arguments, code=code)
        assert PASSWORD not in said
        assert ADMIN_KEY not in said
        assert SECRET not in said
        found = json.loads(said)
        assert found["is_healthy"] is (code == 0)
        return {
            f"{each['subject']}, {each['check']}": (
                each["level"],
                f"{each['text']} {each['todo']}",
            )
            for each in found["findings"]
        }

    def test_beside_running_programs(self, place, folder, monkeypatch):
        port = free_port()
        monkeypatch.setenv("BRIDGE_PORT", str(port))
        monkeypatch.setenv("BRIDGE_WEBHOOK_SECRET", SECRET)
        url = f"http://127.0.0.1:{port}"
        hook = f"{url}/webhooks/marzban"
        with closing(Process(folder, "run")) as process:
            poll("the bridge", lambda: is_up(url))
            poll(
                "its panel", lambda: httpx.get(f"{url}/readyz", timeout=PATIENCE).status_code == 200
            )
            found = self.lines(place)
            assert found["panel default, signed in"][0] == "ok"
            assert found["panel default, version"] == ("ok", "Marzban 0.8.4 ")
            assert found["panel default, permissions"][0] == "ok"
            assert found["panel default, clock"][0] != "wrong"
            assert found["panel default, webhook"][0] == "note"
            assert found["collector, reporters"] == ("ok", "2 with a valid key ")
            assert found["collector, disk"][0] == "ok"
            assert found["collector, last report"][0] == "note"
            assert found["bridge, running"][0] == "ok"
            assert found["bridge, enforcement"] == ("ok", "limit ")
            answer = httpx.post(hook, json=[], timeout=PATIENCE)
            assert answer.status_code == 401
            assert self.lines(place, code=1)["panel default, webhook"][0] == "wrong"
            secret = {"x-webhook-secret": SECRET}
            assert httpx.post(hook, json=[], headers=secret, timeout=PATIENCE).is_success
            place.report("alice", amount_bytes=gib(1))
            found = self.lines(place)
            assert found["panel default, webhook"][0] == "ok"
            assert found["collector, last report"][0] == "ok"
            assert "ok    panel default, webhook: the last one arrived" in place.run("doctor")
            assert process.end() == 0
        with closing(Process(folder, "run")) as process:
            poll("the bridge", lambda: is_up(url))
            assert self.last_webhook_at(url) > 0, "it is known over a restart"
            assert process.end() == 0

    def last_webhook_at(self, url) -> float:
        said = httpx.get(f"{url}/metrics", timeout=PATIENCE).text
        found = re.search(r"^bridge_last_webhook_timestamp_seconds (\S+)$", said, re.MULTILINE)
        assert found
        return float(found[1])

    def test_a_wrong_password_of_the_panel_does_not_look_healthy(self, place, folder, monkeypatch):
        port = free_port()
        monkeypatch.setenv("BRIDGE_PORT", str(port))
        monkeypatch.setenv("MARZBAN_PASSWORD", "not-that-password")
        url = f"http://127.0.0.1:{port}"
        with closing(Process(folder, "run")) as process:
            process.until_said("refuses the sign-in")
            poll("the bridge", lambda: is_up(url))
            ready = httpx.get(f"{url}/readyz", timeout=PATIENCE)
            assert ready.status_code == 503
            assert "refuses the sign-in of 'root'" in ready.text
            found = self.lines(place, code=1)
            level, text = found["panel default, signed in"]
            assert (level, "MARZBAN_PASSWORD" in text) == ("wrong", True)
            assert "not-that-password" not in json.dumps(found)
            assert process.end() == 0

    @pytest.mark.parametrize(
        ("status", "level", "says"),
        [(204, "ok", "accepts the token"), (401, "wrong", "correct INFLUXDB_TOKEN"), (503, "note", "503"),
         (404, "wrong", "correct INFLUXDB_URL")],
    )  # fmt: skip
    def test_influxdb_and_grafana(self, place, monkeypatch, status, level, says):
        async def answer(scope, receive, send):
            if scope["type"] != "http":
                return
            is_grafana = scope["path"] == "/api/health"
            start = {"status": 200 if is_grafana else status, "headers": []}
            await send({"type": "http.response.start"} | start)
            body = b'{"database": "ok"}' if is_grafana else b""
            await send({"type": "http.response.body", "body": body})

        with served(answer) as url:
            monkeypatch.setenv("INFLUXDB_URL", url)
            monkeypatch.setenv("INFLUXDB_TOKEN", "a-token-that-is-not-shown")
            found = self.lines(place, "--grafana", url, code=1)  # no bridge runs
        assert found["InfluxDB, writable"][0] == level
        assert says in found["InfluxDB, writable"][1]
        assert "not-shown" not in json.dumps(found)
        assert found["Grafana, reachable"][0] == "ok"

    @pytest.mark.parametrize("kept", [None, ""])
    def test_a_token_of_influxdb_that_is_not_there(self, place, monkeypatch, tmp_path, kept):
        path = tmp_path / "token"
        if kept is not None:
            path.write_text(kept)
        monkeypatch.setenv("INFLUXDB_URL", f"http://127.0.0.1:{free_port()}")
        monkeypatch.setenv("INFLUXDB_TOKEN_FILE", str(path))
        level, text = self.lines(place, code=1)["InfluxDB, writable"]
        assert level == "wrong"
        assert str(path) in text
        assert "traffic-collector bootstrap --tokens" in text
        assert "start it" not in text

    @pytest.mark.parametrize(
        ("status", "body", "says"),
        [
            (404, b"404 page not found", "GRAFANA_ROOT_URL"),
            (200, b"<html></html>", "GRAFANA_ROOT_URL"),
            (503, b'{"database": "failing"}', "see Grafana's log"),
        ],
    )
    def test_what_answers_for_grafana(self, place, status, body, says):
        async def answer(scope, receive, send):
            if scope["type"] == "http":
                await send({"type": "http.response.start", "status": status, "headers": []})
                await send({"type": "http.response.body", "body": body})

        with served(answer) as url:
            level, text = self.lines(place, "--grafana", url, code=1)["Grafana, reachable"]
        assert level == "note"
        assert says in text
        assert "start it" not in text

    def test_nothing_is_there(self, alone):
        assert main(["doctor"]) == 1

    def test_a_collector_with_another_key(self, place, monkeypatch):
        monkeypatch.setenv("COLLECTOR_ADMIN_KEY", "another-key-than-the-collectors")
        found = self.lines(place, code=1)
        assert found["collector, running"][0] == "ok"
        assert found["collector, key"][0] == "wrong"
        assert "COLLECTOR_ADMIN_KEY" in found["collector, key"][1]
        assert found["bridge, running"][0] == "wrong"
