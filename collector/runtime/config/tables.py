"""Reading one table of a TOML file strictly: every key known, every value of its kind; pure.

Errors name the table and the path of the key in it: `[3x-ui.de-1] users.pattern`.
"""

from __future__ import annotations

import errno
import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, overload

from collector.runtime.config import ConfigError, did_you_mean
from collector.runtime.config.values import LINE, Kind, header_text
from collector.runtime.near_words import near_words

T = TypeVar("T")
D = TypeVar("D")
REQUIRED: Any = object()
SECRET = header_text()


def parse_toml(text: str) -> dict[str, Any]:
    """Return what the text of a TOML file says; ConfigError says where it is none."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"it is not TOML: {error}") from error


def _read_none(name: str) -> str:
    raise FileNotFoundError(errno.ENOENT, "no files are read here", name)


class Table:
    """The keys of one table, called by a label; `finish` refuses those that nothing asked for.

    `read_file` returns what is in a file that a key names.
    """

    def __init__(
        self,
        label: str,
        values: Mapping[str, Any],
        *,
        path: str = "",
        read_file: Callable[[str], str] = _read_none,
    ) -> None:
        self._label = label
        self._path = path
        self._values = values
        self._read_file = read_file
        self._asked: set[str] = set()

    def error(self, key: str, why: object) -> ConfigError:
        """Return the error of one key."""
        return ConfigError(f"{self._label} {self._path}{key}: {why}".lstrip())

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def _take(self, key: str, default: Any = REQUIRED) -> Any:
        self._asked.add(key)
        if key in self._values:
            return self._values[key]
        if default is REQUIRED:
            raise self._missing(key)
        return default

    def _missing(self, key: str, *, instead: str = "") -> ConfigError:
        near = near_words(key, self._values.keys() - self._asked)
        meant = f" (is {near[0]} meant to be it?)" if near else ""
        return self.error(key, f"is required{instead}{meant}")

    @overload
    def get(self, key: str, kind: Kind[T]) -> T: ...

    @overload
    def get(self, key: str, kind: Kind[T], default: D) -> T | D: ...

    def get(self, key: str, kind: Kind[Any], default: Any = REQUIRED) -> Any:
        """Return the value of a key, or the default where it is not there.

        Raises ConfigError for a value of another kind, and where a key is missing that has no
        default.
        """
        value = self._take(key, default)
        if key not in self._values:
            return value
        try:
            return kind.of_toml(value)
        except ValueError as error:
            raise self.error(key, error) from None

    @overload
    def secret(self, key: str, kind: Kind[str] = SECRET) -> str: ...

    @overload
    def secret(self, key: str, kind: Kind[str] = SECRET, *, default: D) -> str | D: ...

    def secret(self, key: str, kind: Kind[str] = SECRET, *, default: Any = REQUIRED) -> Any:
        """Return a secret, given itself or as the file it is in (`<key>_file`)."""
        value = self.get(key, kind, None)
        file = self.get(f"{key}_file", LINE, None)
        if value is not None and file is not None:
            raise self.error(key, f"give it or {key}_file, not both")
        if file is not None:
            return self._in_file(f"{key}_file", kind, self.file(f"{key}_file", file).strip())
        if value is None and default is REQUIRED:
            raise self._missing(key, instead=f" (or {key}_file)")
        return default if value is None else value

    def _in_file(self, key: str, kind: Kind[T], text: str) -> T:
        try:
            return kind.of_toml(text)
        except ValueError as error:
            raise self.error(key, f"{error}, in that file") from None

    def file(self, key: str, name: str) -> str:
        """Return the text of the file that a key names."""
        try:
            return self._read_file(name)
        except (OSError, UnicodeDecodeError) as error:
            raise self.error(key, f"cannot be read: {error}") from error

    def words(self, key: str, default: tuple[str, ...] = REQUIRED) -> tuple[str, ...]:
        """Return a command as a list of its words; no shell reads it."""
        value = self._take(key, default)
        is_list = isinstance(value, list | tuple) and bool(value)
        if not is_list or not all(isinstance(each, str) and each for each in value):
            raise self.error(
                key, 'expected a list of words such as ["wg", "show"]; no shell is used'
            )
        return tuple(value)

    def texts(
        self, key: str, kind: Kind[str], default: D, *, example: str = '"their name" = "username"'
    ) -> Mapping[str, str] | D:
        """Return a table of texts, or the default where it is not there."""
        if key not in self:
            self._asked.add(key)
            return default
        table = self.table(key, example=example)
        return {each: table.get(each, kind) for each in table}

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def has_table(self, key: str) -> bool:
        """Tell whether a key's value is a table, where another one is possible, too."""
        return isinstance(self._values.get(key), dict)

    def table(
        self,
        key: str,
        default: Mapping[str, Any] = REQUIRED,
        *,
        example: str = "",
        is_labelled: bool = False,
    ) -> Table:
        """Return a table within this one, or `[label.key]` with a label of its own."""
        value = self._take(key, default)
        if not isinstance(value, dict):
            such = f"such as {{ {example} }}" if example else f"as in [{self._path}{key}]"
            raise self.error(key, f"expected a table, {such}")
        if not self._label:
            return self._within(f"[{key}]", value)
        if is_labelled:
            return self._within(f"{self._label[:-1]}.{key}]", value)
        return self._within(self._label, value, path=f"{self._path}{key}.")

    def _within(self, label: str, values: Mapping[str, Any], *, path: str = "") -> Table:
        return Table(label, values, path=path, read_file=self._read_file)

    def tables(self, key: str, *, noun: str) -> list[Table]:
        """Return a list of tables, each called by its name."""
        value = self._take(key, [])
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            raise self.error(key, f"expected [[{key}]] tables")
        found = []
        for number, each in enumerate(value, start=1):
            name = each.get("name")
            called = f'"{name}"' if isinstance(name, str) and name.isprintable() else f"{number}"
            found.append(self._within(f"{noun} {called}", each))
        return found

    def finish(self) -> None:
        """Refuse keys that nothing asked for: they are misspelt, or of another kind of table."""
        for key in self._values:
            if key not in self._asked:
                known = (
                    did_you_mean(key, self._asked) or f"; known: {', '.join(sorted(self._asked))}"
                )
                raise self.error(key, f"is not known here{known}")
