"""The torture of benchmarks/sender_torture.py, short: a proxy that lies, and it is told and mended."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

TORTURE = Path(__file__).parents[2] / "benchmarks" / "sender_torture.py"


def test_what_senders_took_is_in_the_ledger_once_whatever_a_proxy_answers(tmp_path):
    seed = random.randrange(10**6)
    command = [sys.executable, TORTURE, "--minutes", "0.02", "--quick", "--seed", str(seed)]
    only = ["--only", "422", "--only", "another's", "--only", "cut", "--accident", "none"]
    said = tmp_path / "said.log"
    with said.open("wb") as file:  # no pipe: its processes would keep it open after it
        torture = subprocess.Popen(
            [*command, *only], stdout=file, stderr=file, start_new_session=True
        )
    try:
        torture.wait(150)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(torture.pid, signal.SIGKILL)
        torture.wait()
    assert torture.returncode == 0, f"seed {seed}\n{said.read_text()}"
    assert "balanced" in said.read_text()
