"""A program's environment: the process's own over what `.env` in the folder it starts in says.

A secret may be in a file: `<NAME>_FILE` names it, in the environment or in `.env`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path

from dotenv.parser import Original, parse_stream
from dotenv.variables import Literal, Variable, parse_variables

from collector.runtime.config import ConfigError
from collector.runtime.config.files import read_config_file
from collector.runtime.config.names import Names, without_service_addresses

_IN_SINGLE_QUOTES = re.compile(r"\s*(?:export\s+)?(?:'[^']+'|[^=#\s]+)\s*=[^\S\r\n]*'")


def read_environment(names: Names) -> Mapping[str, str]:
    """Return all variables that are set, in the process's environment or else in `.env`.

    Secrets are there under their own names, whatever file they were in. Raises ConfigError for a
    `.env` that is not as it should be, for unknown names, and for a file that cannot be read.
    """
    return _with_secrets(_environment(names), names.may_be_in_file)


def _environment(names: Names) -> Mapping[str, str]:
    path = Path(".env")
    environment = without_service_addresses(os.environ)
    names.refuse_unknown(environment, where="environment", is_ours=False)
    if not (path.is_file() or path.is_fifo()):
        return environment
    path = path.absolute()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} must be UTF-8 text: {error.reason}") from error
    try:
        from_file = parse_dotenv(text, environment)
    except ConfigError as error:
        raise ConfigError(f"{path}, {error}") from None
    names.refuse_unknown(from_file, where=str(path), is_ours=True)
    return from_file | environment


def _with_secrets(environment: Mapping[str, str], secrets: Iterable[str]) -> Mapping[str, str]:
    found = dict(environment)
    for name in secrets:
        file = found.pop(f"{name}_FILE", "").strip()
        if not file:
            continue
        if found.get(name, "").strip():
            raise ConfigError(f"{name}: give it or {name}_FILE, not both")
        found[name] = read_config_file(Path(file), str, setting=f"{name}_FILE:")
    return found


def parse_dotenv(text: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return what the text of a `.env` file sets; the last of two lines of one name holds.

    `${NAME}` and `${NAME:-default}` stand for another variable, of the environment or of a line
    above, as for Docker Compose; within single quotes all is taken as it stands, and so is any
    other `$`. Raises ConfigError that names the line; it repeats no values.
    """
    found: dict[str, str] = {}
    for each in parse_stream(StringIO(text)):
        if each.error:
            raise ConfigError(
                f"line {_line_of(each.original)}: expected NAME=value, with quotes around it that "
                "are closed"
            )
        if each.key is None or each.value is None:
            continue
        is_literal = _IN_SINGLE_QUOTES.match(each.original.string) is not None
        try:
            found[each.key] = (
                each.value if is_literal else _resolved(each.value, found, environment)
            )
        except ConfigError as error:
            raise ConfigError(f"line {_line_of(each.original)}: {each.key}: {error}") from None
    return found


def _resolved(value: str, above: Mapping[str, str], environment: Mapping[str, str]) -> str:
    parts: list[str] = []
    for atom in parse_variables(value):
        if isinstance(atom, Literal):
            parts.append(atom.value)
        elif isinstance(atom, Variable):
            known = environment.get(atom.name, above.get(atom.name))
            if known is None and atom.default is None:
                raise ConfigError(
                    "it has a ${…} of a variable that is not set; put it in single quotes if it "
                    "is meant as it stands"
                )
            parts.append(known or atom.default or "")
    return "".join(parts)


def _line_of(original: Original) -> int:
    """Return the line a statement is on; the blank lines before it are counted to it."""
    string = original.string
    return original.line + string[: len(string) - len(string.lstrip())].count("\n")
