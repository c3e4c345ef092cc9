"""What the command lines of all programs have in common: one-line errors, and exit codes.

0 is success, 1 an error that is said on one line, 130 an interrupt by the keyboard; a program may
have a code of its own for some of its errors.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from rich.console import Console
from rich.text import Text

from collector.runtime.config import ConfigError
from collector.runtime.entry import INTERRUPTED
from collector.runtime.listening import ListenError, NotStartedError
from collector.runtime.logs import configure_logging, printable


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


def add_json(command: argparse.ArgumentParser) -> None:
    """Add `--json` to a command that shows something."""
    command.add_argument("--json", action="store_true", help="print it as JSON, for scripts")


def print_json(value: Mapping[str, object] | Sequence[object]) -> None:
    """Print a value as JSON on standard output; times as RFC 3339, in UTC."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=_shown)
    sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace") + b"\n")
    sys.stdout.flush()


def _shown(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot be printed as JSON")


def add_completion(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], parser: argparse.ArgumentParser
) -> None:
    """Add `completion SHELL`, which prints what a shell completes the program's commands by."""
    command = commands.add_parser(
        "completion",
        help="print a shell's completion of this program",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"example:\n  {parser.prog} completion bash > /etc/bash_completion.d/{parser.prog}",
    )
    command.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    command.set_defaults(prints_completion=lambda shell: _print_completion(parser, shell))


def _print_completion(parser: argparse.ArgumentParser, shell: str) -> int:
    import shtab  # noqa: PLC0415 - only this command needs it

    sys.stdout.write(f"{shtab.complete(parser, shell=shell)}\n")
    return 0


def completion_of(arguments: argparse.Namespace) -> int | None:
    """Print the completion that was asked for; None if another command was given."""
    prints: Callable[[str], int] | None = getattr(arguments, "prints_completion", None)
    return None if prints is None else prints(arguments.shell)


def program(
    name: str, *, description: str, version: str, examples: Sequence[str]
) -> argparse.ArgumentParser:
    """Return the parser of a program; the examples end its help, one a line."""
    parser = argparse.ArgumentParser(
        prog=name,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n" + "\n".join(f"  {name} {line}" for line in examples),
    )
    parser.add_argument("--version", action="version", version=version)
    return parser


def commands_of(
    parser: argparse.ArgumentParser,
) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    """Return where a program's commands are added; one of them must be given."""
    return parser.add_subparsers(dest="command", required=True, metavar="COMMAND")


def complain(message: str) -> None:
    """Say on one line of standard error what went wrong, whatever a foreign text in it holds."""
    line = Text.assemble(("error:", "bold red"), " ", printable(" ".join(message.split())))
    Console(stderr=True).print(line, soft_wrap=True)
