"""The demonstration a newcomer runs first."""

from __future__ import annotations

import subprocess
import sys


# The stories need longer than that, however fast the machine is: traffic flows until they are told.
def test_the_demo_ends_with_books_that_balance(tmp_path):
    picture = tmp_path / "demo.svg"
    command = [sys.executable, "-m", "marzban_bridge", "demo", "--plain", "--seconds", "2"]
    ended = subprocess.run(
        [*command, "--picture", str(picture)],
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "The books balance" in ended.stdout
    assert ended.stderr == ""
    assert "alice" in picture.read_text()
