"""Programs that tests start: forks of one process, which end and answer as executed ones do."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

import collector
from tests.support import programs


@pytest.mark.parametrize("fresh", [False, True])
def test_a_program_has_its_arguments_environment_folder_and_streams(tmp_path, fresh):
    env = {"PATH": os.environ["PATH"], "COLLECTOR_PORT": "no port", "PYTHONPATH": str(Path.cwd())}
    with (tmp_path / "said").open("wb") as said:
        process = programs.start(
            *("collector", "serve"), env=env, cwd=tmp_path, stderr=said, fresh=fresh
        )
        assert process.wait(60) == 1
    assert "COLLECTOR_PORT" in (tmp_path / "said").read_text()
    assert process not in programs.running()


def test_a_program_is_run_to_its_end():
    done = programs.run("collector", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{collector.__version__}\n", "")
    assert programs.run("marzban_bridge", "no-command").returncode == 2


def test_a_program_has_nothing_of_the_test_that_started_the_first_one(tmp_path, monkeypatch):
    env = os.environ | {"LEDGER_URL": f"sqlite:///{tmp_path}/ledger.sqlite3", "COLUMNS": "160"}
    programs.run("collector", "reporters", "add", "de-1", env=env)
    monkeypatch.setenv("COLUMNS", "60")
    programs.end_forks()
    listed = programs.run("collector", "reporters", "list", env=env).stdout
    assert max(len(line) for line in listed.splitlines()) > 60


def test_a_program_is_waited_for_and_ended_by_signals(tmp_path):
    env = os.environ | {"COLLECTOR_PORT": "0", "LEDGER_URL": f"sqlite:///{tmp_path}/ledger.sqlite3"}
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = programs.start("collector", "serve", env=env)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        assert process.poll() is None
        assert process in programs.running()
        process.send_signal(number)
        assert process.wait(60) in {-number, 0}
        process.send_signal(number)  # to nobody
    assert process not in programs.running()
