"""The fuzz of benchmarks/three_panels.py, short: three panels, accidents, all users right after."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).parents[2] / "benchmarks" / "three_panels.py"


def test_users_of_three_panels_are_right_whenever_all_is_quiet(tmp_path):
    seed = random.randrange(10**6)
    command = [sys.executable, FUZZ, "--separate", "--seconds", "5", "--seed", str(seed)]
    done = subprocess.run(
        [*command, "--keep", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, f"seed {seed}\n{done.stdout}\n{done.stderr[-3000:]}"
    assert "all right" in done.stdout
