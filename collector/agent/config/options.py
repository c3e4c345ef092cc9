"""Reading one table of the configuration strictly: every key known, every value as expected; pure.

Errors name the table and the key. Values of secrets are never repeated.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from collector.agent.errors import ConfigError

_REQUIRED: Any = object()


class Options:
    """The keys of one table; `finish` refuses those nobody asked for."""

    def __init__(
        self, where: str, table: Mapping[str, Any], *, read_file: Callable[[str], str]
    ) -> None:
        self.where = where
        self._table = table
        self._asked: set[str] = set()
        self._read_file = read_file

    def error(self, key: str, why: str) -> ConfigError:
        """Return the error of one key."""
        return ConfigError(f"{self.where}: {key}: {why}")

    def has(self, key: str) -> bool:
        """Tell whether a key is set."""
        return key in self._table

    def _get(self, key: str, default: Any) -> Any:
        self._asked.add(key)
        if key in self._table:
            return self._table[key]
        if default is _REQUIRED:
            raise self.error(key, "is required")
        return default

    def text(self, key: str, default: Any = _REQUIRED, *, longest: int = 255) -> Any:
        """Return a text of printable characters."""
        value = self._get(key, default)
        if key not in self._table:
            return value
        if not isinstance(value, str) or not value or len(value) > longest:
            raise self.error(key, f"expected a text of 1 to {longest} characters")
        if not value.isprintable() or value.endswith("\\"):
            raise self.error(key, "contains control characters, or ends in a backslash")
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        """Return one of the given words."""
        value = self._get(key, _REQUIRED)
        if value not in choices:
            near = difflib.get_close_matches(str(value), choices, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise self.error(key, f"expected one of {', '.join(choices)}{hint}")
        return str(value)

    def whole(self, key: str, default: Any, *, least: int, most: int) -> int:
        """Return a whole number within bounds."""
        value = self._get(key, default)
        if type(value) is not int or not least <= value <= most:
            raise self.error(key, f"expected a whole number from {least} to {most}")
        return value

    def seconds(self, key: str, default: float, *, least: float, most: float) -> float:
        """Return a number of seconds within bounds."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, "expected a number of seconds")
        if not least <= value <= most:
            raise self.error(key, f"expected a number of seconds from {least:g} to {most:g}")
        return float(value)

    def flag(self, key: str) -> bool:
        """Return true or false, false by default."""
        value = self._get(key, False)
        if not isinstance(value, bool):
            raise self.error(key, "expected true or false")
        return value

    def url(
        self, key: str, default: Any = _REQUIRED, *, schemes: tuple[str, ...] = ("http", "https")
    ) -> str:
        """Return the address of a server, without a password in it."""
        value = self._get(key, default)
        expected = f"expected a URL such as {schemes[0]}://127.0.0.1:8080"
        if not isinstance(value, str):
            raise self.error(key, expected)
        try:
            parts = urlsplit(value)
            is_whole = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
        except ValueError:
            raise self.error(key, expected) from None
        if not is_whole or not value.isprintable() or " " in value:
            raise self.error(key, expected)
        if parts.username is not None or parts.password is not None:
            raise self.error(key, "a password in a URL would end up in logs; there is a key for it")
        return value

    def address(self, key: str, default: Any = _REQUIRED) -> tuple[str, int]:
        """Return a host and port."""
        value = self._get(key, default)
        expected = "expected host:port such as 127.0.0.1:8080"
        if not isinstance(value, str):
            raise self.error(key, expected)
        host, _, port = value.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
            raise self.error(key, expected)
        return host, int(port)

    def words(self, key: str, default: Any = _REQUIRED) -> tuple[str, ...]:
        """Return a command as a list of its words; no shell reads it."""
        value = self._get(key, default)
        is_list = isinstance(value, list | tuple) and bool(value)
        if not is_list or not all(isinstance(each, str) and each for each in value):
            raise self.error(
                key, 'expected a list of words such as ["wg", "show"]; no shell is used'
            )
        return tuple(value)

    def secret(self, key: str, *, is_required: bool = True) -> str | None:
        """Return a secret, given itself or as the file it is in (`<key>_file`)."""
        self._asked |= {key, f"{key}_file"}
        in_file = self._table.get(f"{key}_file")
        value = self._table.get(key)
        if value is not None and in_file is not None:
            raise self.error(key, f"give it or {key}_file, not both")
        if in_file is not None:
            if not isinstance(in_file, str):
                raise self.error(f"{key}_file", "expected the name of a file")
            try:
                value = self._read_file(in_file).strip()
            except (OSError, UnicodeDecodeError) as error:
                raise self.error(f"{key}_file", f"cannot be read: {error}") from error
        if value is None:
            if is_required:
                raise self.error(key, f"is required (or {key}_file)")
            return None
        if not isinstance(value, str) or not value or not value.isprintable() or " " in value:
            raise self.error(key, "expected printable characters without spaces")
        return value

    def mapping(self, key: str) -> Mapping[str, str] | None:
        """Return a table of texts; None without it."""
        value = self._get(key, None)
        if value is None:
            return None
        if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
            raise self.error(key, 'expected a table such as { "their name" = "username" }')
        return dict(value)

    def table(self, key: str, default: Any = _REQUIRED) -> Options:
        """Return a table within this one."""
        value = self._get(key, default)
        where = f"{self.where} [{key}]" if self.where.startswith("source") else f"[{key}]"
        if not isinstance(value, dict):
            raise self.error(key, f"expected a table {where}")
        return Options(where, value, read_file=self._read_file)

    def tables(self, key: str, *, noun: str) -> list[Options]:
        """Return a list of tables, each called by its name."""
        value = self._get(key, [])
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            raise self.error(key, f"expected [[{key}]] tables")
        found = []
        for number, each in enumerate(value, start=1):
            name = each.get("name")
            called = f'"{name}"' if isinstance(name, str) and name.isprintable() else f"{number}"
            found.append(Options(f"{noun} {called}", each, read_file=self._read_file))
        return found

    def finish(self) -> None:
        """Refuse keys that nobody asked for: they are misspelt, or of another kind."""
        for key in self._table:
            if key not in self._asked:
                near = difflib.get_close_matches(key, self._asked, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise self.error(key, f"is not known here{hint}")
