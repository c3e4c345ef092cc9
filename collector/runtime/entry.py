"""The beginning of a program: tells its version at once, or runs its command line.

The modules of the commands take a second to import, which the version needs not wait for.
"""

from __future__ import annotations

import importlib
import sys

INTERRUPTED = 130


def run_program(module: str, *, version: str) -> int:
    """Print the version for `--version` alone, or run `main` of `module`; return its code.

    An interrupt by the keyboard is one also while the modules are imported.
    """
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"{version}\n")
        return 0
    try:
        code: int = importlib.import_module(module).main()
    except KeyboardInterrupt:
        return INTERRUPTED
    return code
