"""The demonstration a newcomer runs first, on either kind of panel."""

from __future__ import annotations

import subprocess
import sys

DEADLINE_SECONDS = 290
PANELS = {"marzban": "Marzban", "pasarguard": "PasarGuard"}


# The stories need longer than that, however fast the machine is: traffic flows until they are told.
def test_the_demo_ends_with_books_that_balance(tmp_path):
    """Both at once: most of a demonstration is waiting."""
    command = [sys.executable, "-m", "marzban_bridge", "demo", "--plain", "--seconds", "2"]
    pictures = {kind: tmp_path / f"{kind}.svg" for kind in PANELS}
    running = {
        kind: subprocess.Popen(
            [*command, "--panel", kind, "--picture", str(pictures[kind])],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for kind in PANELS
    }
    try:
        said = {kind: each.communicate(timeout=DEADLINE_SECONDS) for kind, each in running.items()}
    finally:
        for each in running.values():
            each.kill()
            each.wait()
    for kind, title in PANELS.items():
        output, errors = said[kind]
        assert running[kind].returncode == 0, output + errors
        assert "The books balance" in output
        assert output.startswith(f"A simulated {title}")
        assert errors == ""
        assert "alice" in pictures[kind].read_text()
