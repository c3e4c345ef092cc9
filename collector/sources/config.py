"""The sources file: decodes its TOML into the configuration of each reporter's source.

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
from collections.abc import Iterator, Mapping

import msgspec

from collector.reports.report import MAX_SERVER_LENGTH, MAX_USERNAME_LENGTH
from collector.reports.reporters import NAME
from collector.runtime.config import ConfigError, did_you_mean
from collector.runtime.config.tables import Table, parse_toml
from collector.runtime.config.values import line, number, text, whole
from collector.sources import three_x_ui, uniproxy
from collector.sources.three_x_ui import ThreeXUi
from collector.sources.uniproxy import DEFAULT_RETRY_WINDOW_SECONDS, NODE_PART, Place, UniProxy
from collector.sources.users import AS_THEY_ARE, USERNAME_GROUP, Users

KINDS = (three_x_ui.KIND, uniproxy.KIND)
MAX_RETRY_WINDOW_SECONDS = 600
_PROTOCOL = re.compile(r"[A-Za-z0-9._+-]{1,64}")
_NODE = re.compile(rf"(?:{NODE_PART.pattern}/)?{NODE_PART.pattern}")


class SourcesConfig(msgspec.Struct, frozen=True):
    """The configured sources, by the name of the reporter whose key they use."""

    panels: Mapping[str, ThreeXUi] = {}
    uniproxies: Mapping[str, UniProxy] = {}

    def three_x_ui(self, reporter: str) -> ThreeXUi:
        """Return a reporter's 3x-ui; without an entry its server has the reporter's name."""
        return self.panels.get(reporter) or ThreeXUi(server=reporter)

    def uniproxy(self, reporter: str) -> UniProxy | None:
        """Return the configuration of a reporter's panel; None without an entry."""
        return self.uniproxies.get(reporter)


EMPTY = SourcesConfig()


def read_sources(text: str) -> SourcesConfig:
    """Decode a sources file; ConfigError says on one line what is wrong with it, and where."""
    document = Table("", parse_toml(text))
    for kind in document:
        if kind not in KINDS:
            meant = did_you_mean(kind, KINDS)
            raise ConfigError(f"[{kind}] is not a kind of source; known: {', '.join(KINDS)}{meant}")
    return SourcesConfig(
        {name: _panel(name, entry) for name, entry in _reporters(document, three_x_ui.KIND)},
        {name: _uniproxy(entry) for name, entry in _reporters(document, uniproxy.KIND)},
    )


def _reporters(document: Table, kind: str) -> Iterator[tuple[str, Table]]:
    reporters = document.table(kind, {})
    for name in reporters:
        if not NAME.fullmatch(name):
            raise ConfigError(
                f"[{kind}.{name}]: {name!r} is not a valid reporter's name (A-Z a-z 0-9 . _ -)"
            )
        yield name, reporters.table(name, is_labelled=True)


def _panel(name: str, entry: Table) -> ThreeXUi:
    panel = ThreeXUi(
        server=entry.get("server", SERVER, name),
        port=entry.get("port", PORT, 0),
        protocol=entry.get("protocol", PROTOCOL, "unknown"),
        users=_users(entry),
    )
    entry.finish()
    return panel


def _uniproxy(entry: Table) -> UniProxy:
    if "users" not in entry:
        raise entry.error(
            "users",
            "is required: nodes push user numbers; map them in a table [….users.table], or "
            'set users = "identity"',
        )
    panel = UniProxy(
        users=_users(entry),
        nodes=dict(_nodes(entry.table("nodes", {}, example='7 = "fr-1"'))),
        retry_window_seconds=entry.get(
            "retry_window_seconds", RETRY_WINDOW, DEFAULT_RETRY_WINDOW_SECONDS
        ),
    )
    entry.finish()
    return panel


def _nodes(nodes: Table) -> Iterator[tuple[str, Place]]:
    for key in nodes:
        if not _NODE.fullmatch(key):
            raise nodes.error(key, "expected a node's id, or its type and id: vless/7")
        kind, slash, number = key.rpartition("/")
        yield f"{kind.lower()}{slash}{number}", _place(nodes, key)


def _place(nodes: Table, key: str) -> Place:
    if not nodes.has_table(key):
        return Place(nodes.get(key, SERVER))
    entry = nodes.table(key)
    place = Place(entry.get("server", SERVER), entry.get("port", PORT, 0))
    entry.finish()
    return place


def _users(entry: Table) -> Users:
    if not entry.has_table("users"):
        entry.get("users", IDENTITY, None)
        return AS_THEY_ARE
    users, not_one = entry.table("users"), entry.error("users", f"expected one of {USERS}")
    if "pattern" in users and "table" in users:
        raise not_one
    pattern = users.get("pattern", PATTERN, None)
    table = users.texts("table", USERNAME, None, example='42 = "alice"')
    users.finish()
    if pattern is None and table is None:
        raise not_one
    return Users(pattern=pattern, table=table)


def _pattern(raw: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(raw)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"it is not a regular expression: {error}") from error
    if USERNAME_GROUP not in pattern.groupindex:
        raise ValueError(f"it needs a group (?P<{USERNAME_GROUP}>…)")
    return pattern


def _protocol(raw: str) -> str:
    if not _PROTOCOL.fullmatch(raw):
        raise ValueError('expected a word such as "vless"')
    return raw


def _identity(raw: str) -> str:
    if raw != "identity":
        raise ValueError(f"expected {USERS}")
    return raw


USERS = '"identity", { pattern = \'(?P<username>…)\' } or { table = { 42 = "alice" } }'
IDENTITY = text(_identity, expected=f"expected {USERS}")
SERVER = line(MAX_SERVER_LENGTH, is_trimmed=True)
USERNAME = line(MAX_USERNAME_LENGTH, is_trimmed=True)
PORT = whole(0, 65535, expected="expected a port from 1 to 65535, or 0 for unknown")
PROTOCOL = text(_protocol, expected='expected a word such as "vless"')
PATTERN = text(_pattern, expected="expected a regular expression in quotes")
RETRY_WINDOW = number(
    0,
    MAX_RETRY_WINDOW_SECONDS,
    expected=f"expected a number from 0 (count each push) to {MAX_RETRY_WINDOW_SECONDS}",
)
