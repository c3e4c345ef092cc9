"""What the command lines of all programs have in common: one-line errors, and exit codes.

0 is success, 1 an error that is said on one line, 130 an interrupt by the keyboard; a program may
have a code of its own for some of its errors.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from collector.runtime.config import ConfigError
from collector.runtime.listening import ListenError, NotStartedError
from collector.runtime.logs import configure_logging, printable

INTERRUPTED = 130


def run_command(
    command: Callable[[], int],
    *,
    errors: tuple[type[Exception], ...],
    code_of: Callable[[Exception], int] = lambda _: 1,
    explain: Callable[[sqlite3.Error], str] = lambda error: f"a file cannot be read: {error}",
) -> int:
    """Run one command of a program and return its exit code; logs go to standard error.

    `errors` are what the program raises on purpose, with a message for its operator; `code_of`
    gives the exit code of each. `explain` says what a fault of SQLite means that nothing has
    explained yet.
    """
    configure_logging()
    try:
        return command()
    except errors as error:
        complain(str(error))
        return code_of(error)
    except (ConfigError, ListenError, NotStartedError) as error:
        complain(str(error))
    except sqlite3.Error as error:
        complain(explain(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        complain(f"{where}{error.strerror or error}")
    except KeyboardInterrupt:
        return INTERRUPTED
    return 1


def complain(message: str) -> None:
    """Say on one line of standard error what went wrong, whatever a foreign text in it holds."""
    line = Text.assemble(("error:", "bold red"), " ", printable(" ".join(message.split())))
    Console(stderr=True).print(line, soft_wrap=True)
