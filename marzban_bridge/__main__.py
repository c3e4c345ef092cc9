"""`marzban-bridge`, and `python -m marzban_bridge`: tells its version, or runs a command.

The modules of the commands take a second to import, which the version needs not wait for.
"""

from __future__ import annotations

import sys

from marzban_bridge import __version__


def main() -> int:
    """Run the command line and return its exit code."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"{__version__}\n")
        return 0
    from marzban_bridge.cli.main import main as run  # noqa: PLC0415 - see above

    return run()


if __name__ == "__main__":
    sys.exit(main())
