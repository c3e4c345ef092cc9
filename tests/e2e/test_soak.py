"""The soak of benchmarks/soak.py, short: killed, filled, slowed, stepped, and all balances after."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.examples import FACTOR

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"
SECONDS = 840
"""It takes 90 on an idle machine."""


@pytest.mark.timeout(SECONDS + 60)
def test_after_accidents_of_every_kind_the_books_balance_and_every_limit_is_right(tmp_path):
    seed = 20 if FACTOR == 1 else random.randrange(10**6)
    command = [sys.executable, SOAK, "--minutes", "0.5", "--seed", str(seed), "--keep", tmp_path]
    said = tmp_path / "said.log"
    with said.open("wb") as file:  # no pipe: its processes would keep it open after it
        soak = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            soak.wait(SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(soak.pid, signal.SIGKILL)
        soak.wait()
        if (tmp_path / "disk").is_mount():  # no folder with it in it can be removed
            subprocess.run(["umount", "--lazy", tmp_path / "disk"], check=True)
    assert soak.returncode == 0, f"seed {seed}\n{said.read_text()}"
    assert "balanced" in said.read_text()
