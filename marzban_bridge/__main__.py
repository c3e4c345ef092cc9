"""`marzban-bridge`, and `python -m marzban_bridge`: tells its version, or runs a command."""

from __future__ import annotations

import sys

from collector.runtime.entry import run_program
from marzban_bridge import __version__


def main() -> int:
    """Run the command line and return its exit code."""
    return run_program("marzban_bridge.cli.main", version=__version__)


if __name__ == "__main__":
    sys.exit(main())
