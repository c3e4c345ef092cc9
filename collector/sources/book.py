"""The sources file: TOML text becomes what is known of each reporter's source, or one clear error.

[3x-ui.de-1]                 # the reporter whose key is in the panel's URL
server = "de-1.example.com"
users = { pattern = '(?P<username>.+)-de' }

[uniproxy.shop]
nodes = { 7 = "fr-1", "trojan/3" = { server = "fr-2", port = 8443 } }
[uniproxy.shop.users.table]
42 = "alice"
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

import msgspec

from collector.errors import SettingsError
from collector.reports.report import MAX_SERVER_LENGTH, MAX_USERNAME_LENGTH
from collector.reports.reporters import NAME
from collector.sources import three_x_ui, uniproxy
from collector.sources.three_x_ui import ThreeXUi
from collector.sources.uniproxy import DEFAULT_RETRY_WINDOW_SECONDS, NODE_PART, Place, UniProxy
from collector.sources.users import AS_THEY_ARE, USERNAME_GROUP, Users

KINDS = (three_x_ui.KIND, uniproxy.KIND)
MAX_RETRY_WINDOW_SECONDS = 600
_PROTOCOL = re.compile(r"[A-Za-z0-9._+-]{1,64}")
_NODE = re.compile(rf"(?:{NODE_PART.pattern}/)?{NODE_PART.pattern}")


class SourceBook(msgspec.Struct, frozen=True):
    """What is known of the sources, by the name of the reporter whose key they use."""

    panels: Mapping[str, ThreeXUi] = {}
    uniproxies: Mapping[str, UniProxy] = {}

    def three_x_ui(self, reporter: str) -> ThreeXUi:
        """Return a reporter's 3x-ui; one that is not in the file is called like its reporter."""
        return self.panels.get(reporter) or ThreeXUi(server=reporter)

    def uniproxy(self, reporter: str) -> UniProxy | None:
        """Return what a reporter's nodes belong to; without the file nobody knows whose ids."""
        return self.uniproxies.get(reporter)


EMPTY = SourceBook()


def read_book(text: str) -> SourceBook:
    """Read a sources file; SettingsError says in one line what is wrong with it, and where."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"it is not TOML: {error}") from error
    for kind, reporters in document.items():
        if kind not in KINDS:
            raise SettingsError(f"[{kind}] is no kind of source; known: {', '.join(KINDS)}")
        _expect(reporters, dict, f"[{kind}]", f"one table per reporter, as in [{kind}.de-1]")
        for name, entry in reporters.items():
            where = f"[{kind}.{name}]"
            _expect(entry, dict, where, "a table")
            if not NAME.fullmatch(name):
                raise SettingsError(f"{where}: {name!r} is no reporter's name (A-Z a-z 0-9 . _ -)")
    return SourceBook(
        {name: _panel(name, entry) for name, entry in document.get(three_x_ui.KIND, {}).items()},
        {name: _uniproxy(name, entry) for name, entry in document.get(uniproxy.KIND, {}).items()},
    )


def _panel(name: str, entry: dict[str, Any]) -> ThreeXUi:
    where = f"[{three_x_ui.KIND}.{name}]"
    _only(entry, where, "server", "port", "protocol", "users")
    return ThreeXUi(
        server=_name(entry.get("server", name), f"{where} server", MAX_SERVER_LENGTH),
        port=_port(entry.get("port", 0), f"{where} port"),
        protocol=_protocol(entry.get("protocol", "unknown"), f"{where} protocol"),
        users=_users(entry.get("users", "identity"), f"{where} users"),
    )


def _uniproxy(name: str, entry: dict[str, Any]) -> UniProxy:
    where = f"[{uniproxy.KIND}.{name}]"
    _only(entry, where, "users", "nodes", "retry_window_seconds")
    if "users" not in entry:
        raise SettingsError(
            f"{where} has no users: nodes push numbers; say whose they are in {where[:-1]}.users"
            '.table], or set users = "identity"'
        )
    window = entry.get("retry_window_seconds", DEFAULT_RETRY_WINDOW_SECONDS)
    is_number = isinstance(window, int | float) and not isinstance(window, bool)
    if not is_number or not 0 <= window <= MAX_RETRY_WINDOW_SECONDS:
        raise SettingsError(
            f"{where} retry_window_seconds: expected a number from 0 (count each push) to "
            f"{MAX_RETRY_WINDOW_SECONDS}"
        )
    nodes = entry.get("nodes", {})
    _expect(nodes, dict, f"{where} nodes", 'a table such as { 7 = "fr-1" }')
    return UniProxy(
        users=_users(entry["users"], f"{where} users"),
        nodes={_node(key, where): _place(key, each, where) for key, each in nodes.items()},
        retry_window_seconds=float(window),
    )


def _node(key: str, where: str) -> str:
    if not _NODE.fullmatch(key):
        raise SettingsError(
            f"{where} nodes: {key!r} is no node; expected its id, or its type and id: vless/7"
        )
    kind, slash, number = key.rpartition("/")
    return f"{kind.lower()}{slash}{number}"


def _place(key: str, value: Any, where: str) -> Place:
    where = f"{where} nodes.{key}"
    if isinstance(value, str):
        return Place(_name(value, where, MAX_SERVER_LENGTH))
    _expect(value, dict, where, 'a name, or { server = "fr-1", port = 443 }')
    _only(value, where, "server", "port")
    server = _name(value.get("server"), f"{where}.server", MAX_SERVER_LENGTH)
    return Place(server, _port(value.get("port", 0), f"{where}.port"))


def _users(value: Any, where: str) -> Users:
    if value == "identity":
        return AS_THEY_ARE
    expected = "\"identity\", { pattern = '(?P<username>…)' } or a table of names"
    _expect(value, dict, where, expected)
    _only(value, where, "pattern", "table")
    match value:
        case {"pattern": pattern, **others} if not others:
            return Users(pattern=_pattern(pattern, f"{where}.pattern"))
        case {"table": table, **others} if not others:
            _expect(table, dict, f"{where}.table", 'a table such as { 42 = "alice" }')
            return Users(
                table={
                    key: _name(each, f"{where}.table, {key!r}", MAX_USERNAME_LENGTH)
                    for key, each in table.items()
                }
            )
        case _:
            raise SettingsError(f"{where}: expected one of {expected}")


def _pattern(text: Any, where: str) -> re.Pattern[str]:
    _expect(text, str, where, "a regular expression in quotes")
    try:
        pattern = re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise SettingsError(f"{where}: it is no regular expression: {error}") from error
    if USERNAME_GROUP not in pattern.groupindex:
        raise SettingsError(f"{where}: it needs a group (?P<{USERNAME_GROUP}>…)")
    return pattern


def _name(value: Any, where: str, most: int) -> str:
    _expect(value, str, where, "a name in quotes")
    name = str(value)
    is_trimmed = name == name.strip()
    if not (0 < len(name) <= most and name.isprintable() and is_trimmed) or name.endswith("\\"):
        raise SettingsError(
            f"{where}: expected 1 to {most} printable characters, the first and last no blank, the "
            "last no backslash"
        )
    return name


def _port(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 65535:
        raise SettingsError(f"{where}: expected a port from 1 to 65535, or 0 for unknown")
    return value


def _protocol(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _PROTOCOL.fullmatch(value):
        raise SettingsError(f'{where}: expected a word such as "vless"')
    return value


def _expect(value: Any, kind: type, where: str, expected: str) -> None:
    if not isinstance(value, kind):
        raise SettingsError(f"{where}: expected {expected}")


def _only(entry: Mapping[str, Any], where: str, *known: str) -> None:
    for key in entry:
        if key not in known:
            raise SettingsError(f"{where} has an unknown key {key!r}; known: {', '.join(known)}")
