"""The soak of benchmarks/soak.py, short: killed, filled, slowed, stepped, and all balances after."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def test_after_accidents_of_every_kind_the_books_balance_and_every_limit_is_right(tmp_path):
    seed = random.randrange(10**6)
    done = subprocess.run(
        [sys.executable, SOAK, "--minutes", "0.5", "--seed", str(seed), "--keep", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, f"seed {seed}\n{done.stdout}\n{done.stderr[-3000:]}"
    assert "balanced" in done.stdout
