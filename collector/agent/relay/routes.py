"""The configuration of the relay: one route for each sender that never retries; pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from hmac import compare_digest

from collector.runtime.config import ConfigError
from collector.runtime.config.tables import Table
from collector.runtime.config.values import ADDRESS, line, one_of, seconds

KINDS = ("3x-ui", "uniproxy")
MIN_SECRET_LENGTH = 16
DEFAULT_RETRY_WINDOW_SECONDS = 20.0
KEPT_QUERY = {"3x-ui": (), "uniproxy": ("node_id", "node_type")}
"""The query parameters to forward; others, such as a panel's token, are dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A sender: the secret in its path, and the reporter key with which its posts are forwarded.

    An identical post within the retry window is taken for a retry of the sender; 0 counts each
    post.
    """

    name: str
    kind: str
    secret: str = field(repr=False)
    key: str = field(repr=False)
    retry_window_seconds: float

    @property
    def lane(self) -> str:
        """The lane of the spool for this sender's posts."""
        return f"relay:{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """The address on which the relay listens, and its routes."""

    listen: tuple[str, int]
    routes: tuple[Route, ...]


def parse_relay(table: Table, *, default_key: str) -> Relay:
    """Read the table `[relay]`; ConfigError names the key."""
    listen = table.get("listen", ADDRESS)
    routes = tuple(_route(each, default_key) for each in table.tables("route", noun="relay route"))
    table.finish()
    if not routes:
        raise table.error("route", "there is no [[relay.route]]: add one, or remove [relay]")
    for number, each in enumerate(routes):
        for other in routes[:number]:
            if each.name == other.name:
                raise ConfigError(f'relay route "{each.name}" name: another route has it too')
            if compare_digest(each.secret.encode(), other.secret.encode()):
                raise ConfigError(f'relay route "{each.name}" secret: another route has it too')
    return Relay(listen=listen, routes=routes)


def _route(table: Table, default_key: str) -> Route:
    name = table.get("name", line(64))
    kind = table.get("kind", one_of(KINDS))
    secret = table.secret("secret")
    if len(secret) < MIN_SECRET_LENGTH or "/" in secret:
        raise table.error(
            "secret", f"expected at least {MIN_SECRET_LENGTH} characters without a slash"
        )
    key = table.secret("key", default=default_key)
    window_seconds = 0.0
    if kind == "uniproxy":
        window_seconds = table.get(
            "retry_window_seconds", seconds(0, 3600), DEFAULT_RETRY_WINDOW_SECONDS
        )
    table.finish()
    return Route(name=name, kind=kind, secret=secret, key=key, retry_window_seconds=window_seconds)


def find_route(routes: Sequence[Route], path: str) -> Route | None:
    """Return the route of a path `/<kind>/<secret>`; None if there is none."""
    kind, _, secret = path.strip("/").partition("/")
    given = secret.rstrip("/").encode("utf-8", "surrogateescape")
    found = None
    for each in routes:
        if compare_digest(each.secret.encode(), given) and each.kind == kind:
            found = each
    return found


def digest_of(query: str, body: bytes) -> bytes:
    """Return a digest of a post's query and body."""
    return hashlib.blake2b(query.encode() + b"\x1f" + body, digest_size=16).digest()
