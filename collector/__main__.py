"""`traffic-collector`, also as `python -m collector`: tells its version at once, or runs a command.

The modules of the commands take a second to import, which the version needs not wait for.
"""

from __future__ import annotations

import sys

from collector import __version__


def main() -> int:
    """Run the command line and return its exit code."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"{__version__}\n")
        return 0
    from collector.cli.main import main as run  # noqa: PLC0415 - see above

    return run()


if __name__ == "__main__":
    sys.exit(main())
