"""The configuration: what is read, where it goes, what bounds hold; pure, given the parsed file."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from collector.agent.config.options import Options
from collector.agent.config.users import UserMap, compile_pattern
from collector.agent.errors import ConfigError
from collector.agent.relay.routes import Relay, parse_relay
from collector.agent.requests import Parse, SourceRequest
from collector.agent.sources.kinds import KINDS, UNUSABLE

DEFAULT_STATE = "/var/lib/traffic-agent/state.sqlite3"
DEFAULT_INTERVAL_SECONDS = 30.0
DEFAULT_TIMEOUT_SECONDS = 10.0
DEFAULT_MAX_SPOOL_MIB = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A server whose counters are read."""

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
        """What must stay the same for counters to be comparable with those of before."""
        text = f"{self.kind}\x1e{self.request.fingerprint}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the file says; secrets are kept out of the representation."""

    collector_url: str
    key: str = field(repr=False)
    state: str
    max_spool_bytes: int
    metrics_listen: tuple[str, int] | None
    metrics_file: str | None
    sources: tuple[Source, ...]
    relay: Relay | None


def parse(text: str, *, read_file: Callable[[str], str]) -> Config:
    """Read the configuration; ConfigError names the table and the key.

    `read_file` returns what is in a file that the configuration names.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"is no TOML: {error}") from error
    top = Options("top level", tables, read_file=read_file)
    agent = top.table("agent", {})
    server = agent.text("server", None)
    interval_seconds = agent.seconds(
        "interval_seconds", DEFAULT_INTERVAL_SECONDS, least=0.1, most=3600
    )
    state = agent.text("state", DEFAULT_STATE, longest=4096)
    max_spool_mib = agent.whole("max_spool_mib", DEFAULT_MAX_SPOOL_MIB, least=1, most=1_000_000)
    metrics_listen = agent.address("metrics_listen") if agent.has("metrics_listen") else None
    metrics_file = agent.text("metrics_file", None, longest=4096)
    agent.finish()
    collector = top.table("collector")
    url, key = collector.url("url"), collector.secret("key")
    if url.rstrip("/").endswith(("/v1", "/v1/reports")) or "/v1/sources" in url:
        raise collector.error("url", "end it before /v1: the agent knows the paths itself")
    collector.finish()
    sources = [
        _source(options, server=server, interval_seconds=interval_seconds, read_file=read_file)
        for options in top.tables("source", noun="source")
    ]
    relay = None
    if top.has("relay"):
        relay = parse_relay(top.table("relay"), default_key=key or "")
    top.finish()
    _check_names(sources)
    if not sources and relay is None:
        raise ConfigError("there is no [[source]] and no [relay]: nothing would be done")
    return Config(
        collector_url=url.rstrip("/"),
        key=key or "",
        state=state,
        max_spool_bytes=max_spool_mib * 2**20,
        metrics_listen=metrics_listen,
        metrics_file=metrics_file,
        sources=tuple(sources),
        relay=relay,
    )


def _source(
    options: Options,
    *,
    server: str | None,
    interval_seconds: float,
    read_file: Callable[[str], str],
) -> Source:
    name = options.text("name", longest=64)
    if options.has("kind") and (why := UNUSABLE.get(str(options.text("kind")))):
        raise options.error("kind", why)
    kind_name = options.choice("kind", tuple(KINDS))
    kind = KINDS[kind_name]
    request, parse_answer = kind.build(options)
    own_server = options.text("server", server)
    if own_server is None:
        raise options.error("server", "is required here or in [agent]: the name of this server")
    source = Source(
        name=name,
        kind=kind_name,
        request=request,
        parse=parse_answer,
        users=_users(options.table("users", {}), read_file),
        server=own_server,
        port=options.whole("port", 0, least=0, most=65535),
        protocol=options.text("protocol", kind.protocol, longest=64),
        interval_seconds=options.seconds(
            "interval_seconds", interval_seconds, least=0.1, most=3600
        ),
        timeout_seconds=options.seconds(
            "timeout_seconds", DEFAULT_TIMEOUT_SECONDS, least=0.1, most=300
        ),
        count_first=options.flag("count_first"),
    )
    options.finish()
    return source


def _users(options: Options, read_file: Callable[[str], str]) -> UserMap:
    pattern = None
    if options.has("regex"):
        try:
            pattern = compile_pattern(options.text("regex", longest=1000))
        except ValueError as error:
            raise options.error("regex", str(error)) from error
    table = options.mapping("table")
    file = options.text("table_file", None, longest=4096)
    if file is not None:
        if table is not None:
            raise options.error("table", "give it or table_file, not both")
        table = _table_in(options, file, read_file)
    options.finish()
    return UserMap(pattern, table)


def _table_in(options: Options, file: str, read_file: Callable[[str], str]) -> Mapping[str, str]:
    """Read a table of users from a TOML or JSON file."""
    try:
        text = read_file(file)
        table: Any = json.loads(text) if file.endswith(".json") else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise options.error("table_file", f"cannot be read: {error}") from error
    if not isinstance(table, dict) or not all(isinstance(each, str) for each in table.values()):
        raise options.error("table_file", 'expected lines such as "their name" = "username"')
    return table


def _check_names(sources: list[Source]) -> None:
    seen: set[str] = set()
    for each in sources:
        if each.name in seen:
            raise ConfigError(f'source "{each.name}": name: another source has it too')
        seen.add(each.name)
