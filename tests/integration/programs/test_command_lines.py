"""What the programs say of a damaged file, a taken port, a server that is away: one line each."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from collector.cli.main import main
from collector.ledger.postgres import lease as postgres_lease
from collector.ledger.sqlite.writer import SqliteLedger
from collector.runtime import boot_clock
from collector.runtime.postgres import lease as runtime_lease
from collector.runtime.postgres.connection import text_of
from marzban_bridge.cli.main import main as bridge_main
from marzban_bridge.store.postgres import lease
from marzban_bridge.store.store import Store
from tests.support.collector.ledgers import NOON_MILLIS, batch, report

PAGE_BYTES = 4096
COMMANDS = (["check"], ["reporters", "list"], ["export", "status"], ["reporters", "add", "x"])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LEDGER_URL", f"sqlite:///{tmp_path}/ledger.sqlite3")
    monkeypatch.setenv("COLLECTOR_PORT", "0")
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "ledger.sqlite3"
    with closing(SqliteLedger(path)) as ledger:
        for number in range(20):
            reports = [report(f"user{n}", key=f"{number}-{n}") for n in range(50)]
            ledger.record([batch(*reports)], received_at_millis=NOON_MILLIS)
    return path.read_bytes()


def roots(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as db:
        return dict(db.execute("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0"))


def zeroed(data: bytes, page: int) -> bytes:
    return data[: (page - 1) * PAGE_BYTES] + bytes(PAGE_BYTES) + data[page * PAGE_BYTES :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "half of it": lambda data: data[: len(data) // 2],
    "half of it and a piece": lambda data: data[: len(data) // 2 + 100],
    "the first bytes": lambda data: data[:50],
    "garbage": lambda _: b"\xff" * 8192,
    "a garbage header": lambda data: b"\xff" * 100 + data[100:],
    "no schema": lambda data: data[:100] + bytes(PAGE_BYTES - 100) + data[PAGE_BYTES:],
    "text": lambda _: b"no database at all\n" * 300,
    "nothing": lambda _: b"",
    "a page of zeros": lambda data: zeroed(data, len(data) // PAGE_BYTES // 2),
    "names that are no text": lambda data: data.replace(b"user1", b"\xff\xfe\xfd\xfc\xfb"),
}


def is_one_line(capsys, command: list[str]) -> bool:
    code = main(command)
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    lines = said.err.strip().splitlines()
    assert code == (1 if lines else 0) or "NOT whole" in said.out
    return code == 1 and len(lines) == 1 and lines[0].startswith("error: ")


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_damaged_ledger_is_no_traceback(folder, whole, capsys, damage, command):
    path = folder / "ledger.sqlite3"
    path.write_bytes(DAMAGE[damage](whole))
    path.chmod(0o600)
    is_said = is_one_line(capsys, command)
    if command == ["check"]:
        path.write_bytes(DAMAGE[damage](whole))
        assert is_said or main(command) == 1
        assert "is whole" not in capsys.readouterr().out


def test_whichever_page_is_damaged_check_says_so_and_how_to_go_on(folder, whole, capsys):
    path = folder / "ledger.sqlite3"
    path.write_bytes(whole)
    for name, page in roots(path).items():
        path.write_bytes(zeroed(whole, page))
        assert main(["check"]) == 1, name
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        assert "restore a backup" in said.err or "is NOT whole" in said.out, name


def test_a_whole_ledger_is_called_whole(folder, whole, capsys):
    (folder / "ledger.sqlite3").write_bytes(whole)
    assert main(["check"]) == 0
    assert "is whole" in capsys.readouterr().out


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("program", ["collector serve", "bridge run", "up", "agent"])
def test_a_taken_port_is_one_line_and_nothing_is_touched(folder, taken, program):
    (folder / "agent.toml").write_text(
        '[collector]\nurl = "http://127.0.0.1:1"\nkey = "rk_a-key-of-twenty-characters"\n'
        f'[agent]\nserver = "s"\nstate = "{folder}/state"\nmetrics_listen = "127.0.0.1:{taken}"\n'
        '[[source]]\nname = "x"\nkind = "command"\ncommand = ["true"]\n'
    )
    (folder / "agent.toml").chmod(0o600)
    command = {
        "collector serve": ["collector", "serve"],
        "bridge run": ["marzban_bridge", "run"],
        "up": ["marzban_bridge", "up"],
        "agent": ["collector.agent", "--config", "agent.toml", "run"],
    }[program]
    before = sorted(each.name for each in folder.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env=os.environ
        | {
            "COLLECTOR_PORT": str(taken) if program != "up" else "0",
            "BRIDGE_PORT": str(taken),
            "BRIDGE_STORE": str(folder / "bridge.sqlite3"),
            "MARZBAN_URL": "http://127.0.0.1:1",
            "MARZBAN_USERNAME": "root",
            "MARZBAN_PASSWORD": "a-password",
            "COLLECTOR_ADMIN_KEY": "an-admin-key-for-tests",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in {1, 2}
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith(f"error: cannot listen on 127.0.0.1:{taken}: ")
    assert sorted(each.name for each in folder.iterdir()) == before


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({}, ""),
        ({"BRIDGE_PORT": "http"}, "BRIDGE_PORT"),
        ({"COLLECTOR_PORT": "http"}, "COLLECTOR_PORT"),
        ({"COLLECTOR_FASTER": "1"}, "not known: COLLECTOR_FASTER"),
        ({"COLLECTOR_SOURCES_FILE": "nowhere.toml"}, "nowhere.toml"),
        ({"BRIDGE_PANELS_FILE": "nowhere.toml"}, "nowhere.toml"),
    ],
)
def test_up_can_only_check_the_settings(folder, monkeypatch, capsys, wrong, says):
    panel = {"MARZBAN_URL": "http://127.0.0.1:1", "MARZBAN_PASSWORD": "a-password"}
    for name, value in (panel | {"MARZBAN_USERNAME": "root"} | wrong).items():
        monkeypatch.setenv(name, value)
    assert bridge_main(["up", "--check"]) == (1 if wrong else 0)
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.out == ("" if wrong else "The settings are right.\n")
    assert not list(folder.iterdir())


@pytest.mark.parametrize("program", ["collector check", "marzban_bridge users"])
def test_an_env_that_is_no_text_is_one_line_that_names_it(folder, program):
    (folder / ".env").write_bytes(b"MARZBAN_PASSWORD=caf\xe9\n")
    done = subprocess.run(
        [sys.executable, "-m", *program.split()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        f"error: {folder}/.env must be UTF-8 text: invalid continuation byte"
    ]


DOTENV = (
    ("MARZBAN_TIMEOUT=5", ": not known: MARZBAN_TIMEOUT (did you mean MARZBAN_TIMEOUT_SECONDS?); "),
    ("MARZBAN_PASSWORD='hunter2", ", line 1: expected NAME=value, with quotes around it that are"),
    ("MARZBAN_PASSWORD=hunter2${x}", ", line 1: MARZBAN_PASSWORD: it has a ${…} of a variable"),
)


@pytest.mark.parametrize("program", ["collector check", "marzban_bridge users"])
@pytest.mark.parametrize(("line", "complaint"), DOTENV)
def test_an_env_that_would_not_hold_is_refused_by_both_programs(folder, program, line, complaint):
    (folder / ".env").write_text(line)
    done = subprocess.run(
        [sys.executable, "-m", *program.split()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {folder}/.env{complaint}")
    assert done.stderr.count("\n") == 1
    assert "hunter2" not in done.stderr


def test_the_agent_s_configuration_that_is_no_text_is_one_line_that_names_it(folder):
    (folder / "agent.toml").write_bytes(b'[collector]\nkey = "caf\xe9"\n')
    command = [sys.executable, "-m", "collector.agent", "--config", "agent.toml", "check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: agent.toml: it is not UTF-8\n"


@pytest.mark.parametrize("command", COMMANDS[:2], ids=" ".join)
@pytest.mark.parametrize("host", ["127.0.0.1:1", "127.0.0.1:1,127.0.0.1:2", "no.such.host.invalid"])
def test_a_server_that_is_away_is_one_whole_sentence(monkeypatch, capsys, command, host):
    monkeypatch.setenv("LEDGER_URL", f"postgresql://traffic:a-password@{host}/traffic")
    assert is_one_line_of(capsys, command)


def is_one_line_of(capsys, command: list[str]) -> bool:
    assert main(command) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "a-password" not in line
    assert not line.endswith((":", "?", "reached"))
    return "Connection refused" in line or "failed to resolve host" in line


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("connection failed: refused\n\tIs the server running?", "connection failed: refused"),
        ("connection failed:\n  no such file\nmore", "connection failed: no such file"),
        ("connection is bad: ", "connection is bad"),
        ("", "ValueError"),
        ("\n\n a \t b \n", "a b"),
    ],
)
def test_what_an_error_says_is_a_sentence_that_ends(said, text):
    assert text_of(ValueError(said)) == text


class Row:
    """A lease's row that anybody may have."""

    def execute(self, query: str, _: object = None) -> Row:
        self._query = query
        return self

    def fetchone(self) -> tuple[object, ...]:
        if self._query.startswith("SELECT"):
            return ("", "", 1, None, True, *((0, "", "", "") if "former" in self._query else ()))
        return (0, "") if "RETURNING commits" in self._query else (1,)


@pytest.mark.parametrize("module", [postgres_lease, lease])
def test_a_lease_is_over_after_a_night_s_sleep(monkeypatch, module):
    """`time.monotonic` stands still while a machine sleeps, and the database's clock does not."""
    asleep_seconds = 0.0
    for each in (module, runtime_lease):
        monkeypatch.setattr(each, "seconds_now", lambda: boot_clock.seconds_now() + asleep_seconds)
    held = module.Lease()
    assert held.take(Row())
    assert held.is_held
    asleep_seconds = 8 * 3600.0
    assert not held.is_held


@pytest.mark.parametrize("module", [postgres_lease, lease])
@pytest.mark.parametrize("does", ["take", "extend"])
def test_a_lease_is_reckoned_from_before_the_statement_that_moves_it(monkeypatch, module, does):
    """The database may have set its deadline at any moment since: the server took that long."""
    now_seconds = 1000.0
    for each in (module, runtime_lease):
        monkeypatch.setattr(each, "seconds_now", lambda: now_seconds)

    class SlowRow(Row):
        def execute(self, query: str, values: object = None) -> Row:
            nonlocal now_seconds
            now_seconds += 2.0
            return super().execute(query, values)

    held = module.Lease(5.0)
    assert held.take(SlowRow())
    began_at = 1000.0
    if does == "extend":
        began_at = now_seconds
        begun = held.extend(SlowRow())
        if begun is not None:
            held.confirm(begun)
    now_seconds = began_at + 4.9
    assert held.is_held
    now_seconds = began_at + 5.1
    assert not held.is_held


@pytest.mark.parametrize("module", [postgres_lease, lease])
def test_an_epoch_is_given_out_once_also_by_a_database_that_lacks_it(module):
    """A standby took over right after the lease was taken, and its clock is behind."""
    epoch = 10**15
    asked = []

    class Behind(Row):
        def execute(self, query: str, values: object = None) -> Row:
            if query.lstrip().startswith("UPDATE"):
                asked.append(values[2])
            return super().execute(query, values)

        def fetchone(self) -> tuple[object, ...]:
            found = super().fetchone()
            return found if self._query.startswith("SELECT") else (epoch,)

    held = module.Lease()
    assert held.take(Behind())
    assert held.take(Behind())
    assert asked == [2, epoch + 1]


def test_the_clock_counts_sleep(monkeypatch):
    asked = []
    monkeypatch.setattr("time.clock_gettime", lambda clock: asked.append(clock) or 1.0)
    assert boot_clock.seconds_now() == 1.0
    assert asked == [time.CLOCK_BOOTTIME]


def test_a_damaged_store_is_one_line_too(folder, monkeypatch, capsys):
    path = folder / "bridge.sqlite3"
    monkeypatch.setenv("BRIDGE_STORE", str(path))
    Store(path).close()
    data = path.read_bytes()
    for name, page in roots(path).items():
        path.write_bytes(zeroed(data, page))
        assert bridge_main(["users"]) in {0, 1}, name
        assert "Traceback" not in capsys.readouterr().err, name
