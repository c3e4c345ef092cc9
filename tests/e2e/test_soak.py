"""The soak of benchmarks/soak.py, short: killed, filled, slowed, stepped, and all balances after."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def test_after_accidents_of_every_kind_the_books_balance_and_every_limit_is_right(tmp_path):
    seed = random.randrange(10**6)
    command = [sys.executable, SOAK, "--minutes", "0.5", "--seed", str(seed), "--keep", tmp_path]
    said = tmp_path / "said.log"
    with said.open("wb") as file:  # no pipe: its processes would keep it open after it
        soak = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    try:
        soak.wait(280)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(soak.pid, signal.SIGKILL)
        soak.wait()
    assert soak.returncode == 0, f"seed {seed}\n{said.read_text()}"
    assert "balanced" in said.read_text()
