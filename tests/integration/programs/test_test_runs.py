"""Runs of the tests themselves: one whose worker crashes ends, and names the test."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
FILES = 20
PASSING = """
import pytest

@pytest.mark.parametrize("number", range(5))
def test_passes(number):
    assert number < 5
"""
CRASHING = """
import os, signal

def test_crashes():
    os.kill(os.getpid(), signal.SIGSEGV)
"""


def test_a_run_whose_worker_crashes_ends_and_names_the_test(tmp_path):
    """By itself `--dist loadfile` waited for ever, for tests that it gave to no worker."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    tests = tmp_path / "tests"
    tests.mkdir()
    for number in range(FILES):
        name = f"test_{number:02}.py"
        (tests / name).write_text(CRASHING if number == FILES - 4 else PASSING)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"crashed while running 'tests/test_{FILES - 4}.py::test_crashes'" in done.stdout
