"""The agent's configuration as values: sources, collector, bounds, relay; pure."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from collector.agent.config.users import UserMap, compile_pattern
from collector.agent.relay.routes import Relay, parse_relay
from collector.agent.requests import Parse, SourceRequest
from collector.agent.sources.kinds import KINDS, UNUSABLE
from collector.runtime.config import ConfigError
from collector.runtime.config.tables import Table, parse_toml
from collector.runtime.config.values import (
    ADDRESS,
    ANY_TEXT,
    FLAG,
    LINE,
    TEXT,
    WEB_URL,
    line,
    one_of,
    seconds,
    text,
    whole,
)

DEFAULT_STATE = "/var/lib/traffic-agent/state.sqlite3"
DEFAULT_INTERVAL_SECONDS = 30.0
DEFAULT_TIMEOUT_SECONDS = 10.0
DEFAULT_MAX_SPOOL_MIB = 256
NAME = line(255)
NAME_OF_SOURCE = line(64)
INTERVAL = seconds(0.1, 3600)
PATTERN = text(compile_pattern, expected="expected a regular expression in quotes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A VPN server whose counters are polled."""

    name: str
    kind: str
    request: SourceRequest
    parse: Parse
    users: UserMap
    server: str
    port: int
    protocol: str
    interval_seconds: float
    timeout_seconds: float
    count_first: bool

    @property
    def fingerprint(self) -> str:
        """What must stay the same for stored baselines to be valid."""
        text = f"{self.kind}\x1e{self.request.fingerprint}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration; secrets are kept out of the representation."""

    collector_url: str
    key: str = field(repr=False)
    state: str
    max_spool_bytes: int
    metrics_listen: tuple[str, int] | None
    metrics_file: str | None
    sources: tuple[Source, ...]
    relay: Relay | None


def parse(text: str, *, read_file: Callable[[str], str]) -> Config:
    """Decode the configuration; ConfigError names the table and the key.

    `read_file` returns the content of a file that the configuration names.
    """
    top = Table("", parse_toml(text), read_file=read_file)
    agent = top.table("agent", {})
    server = agent.get("server", NAME, None)
    interval_seconds = agent.get("interval_seconds", INTERVAL, DEFAULT_INTERVAL_SECONDS)
    state = agent.get("state", LINE, DEFAULT_STATE)
    max_spool_mib = agent.get("max_spool_mib", whole(1, 1_000_000), DEFAULT_MAX_SPOOL_MIB)
    metrics_listen = agent.get("metrics_listen", ADDRESS, None)
    metrics_file = agent.get("metrics_file", LINE, None)
    agent.finish()
    collector = top.table("collector")
    url, key = collector.get("url", WEB_URL), collector.secret("key")
    if url.endswith(("/v1", "/v1/reports")) or "/v1/sources" in url:
        raise collector.error(
            "url", "leave out /v1 and what follows: the agent adds the paths itself"
        )
    collector.finish()
    sources = [
        _source(table, server=server, interval_seconds=interval_seconds)
        for table in top.tables("source", noun="source")
    ]
    relay = None
    if "relay" in top:
        relay = parse_relay(top.table("relay"), default_key=key)
    top.finish()
    _check_names(sources)
    if not sources and relay is None:
        raise ConfigError("there is no [[source]] and no [relay]: add one of them")
    return Config(
        collector_url=url,
        key=key,
        state=state,
        max_spool_bytes=max_spool_mib * 2**20,
        metrics_listen=metrics_listen,
        metrics_file=metrics_file,
        sources=tuple(sources),
        relay=relay,
    )


def _source(table: Table, *, server: str | None, interval_seconds: float) -> Source:
    name = table.get("name", NAME_OF_SOURCE)
    if why := UNUSABLE.get(table.get("kind", TEXT)):
        raise table.error("kind", why)
    kind_name = table.get("kind", one_of(tuple(KINDS)))
    kind = KINDS[kind_name]
    request, parse_answer = kind.build(table)
    own_server = table.get("server", NAME, server)
    if own_server is None:
        raise table.error("server", "is required here or in [agent]: the name of this server")
    source = Source(
        name=name,
        kind=kind_name,
        request=request,
        parse=parse_answer,
        users=_users(table.table("users", {}), lowers_names=kind.lowers_names),
        server=own_server,
        port=table.get("port", whole(0, 65535), 0),
        protocol=table.get("protocol", line(64), kind.protocol),
        interval_seconds=table.get("interval_seconds", INTERVAL, interval_seconds),
        timeout_seconds=table.get("timeout_seconds", seconds(0.1, 300), DEFAULT_TIMEOUT_SECONDS),
        count_first=table.get("count_first", FLAG, False),
    )
    table.finish()
    return source


def _users(users: Table, *, lowers_names: bool) -> UserMap:
    pattern = users.get("regex", PATTERN, None)
    file = users.get("table_file", LINE, None)
    table = users.texts("table", ANY_TEXT, None)
    if file is not None:
        if table is not None:
            raise users.error("table", "give it or table_file, not both")
        table = _table_in(users, file)
    users.finish()
    if table is not None and lowers_names:
        table = {name.lower(): username for name, username in table.items()} | dict(table)
    return UserMap(pattern, table)


def _table_in(users: Table, file: str) -> Mapping[str, str]:
    """Decode a table of users from a TOML or JSON file."""
    text = users.file("table_file", file)
    try:
        table: Any = json.loads(text) if file.endswith(".json") else tomllib.loads(text)
    except ValueError as error:
        raise users.error("table_file", f"cannot be read: {error}") from error
    if not isinstance(table, dict) or not all(isinstance(each, str) for each in table.values()):
        raise users.error("table_file", 'expected lines such as "their name" = "username"')
    return table


def _check_names(sources: list[Source]) -> None:
    seen: set[str] = set()
    for each in sources:
        if each.name in seen:
            raise ConfigError(f'source "{each.name}" name: another source has it too')
        seen.add(each.name)
