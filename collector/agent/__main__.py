"""`traffic-agent`, and `python -m collector.agent`: tells its version, or runs a command."""

from __future__ import annotations

import sys

from collector import __version__
from collector.runtime.entry import run_program


def main() -> int:
    """Run the command line and return its exit code."""
    return run_program("collector.agent.cli", version=__version__)


if __name__ == "__main__":
    sys.exit(main())
