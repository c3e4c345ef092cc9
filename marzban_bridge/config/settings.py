"""The bridge's settings: the only reader of the environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import httpx

from collector.reports.strangers import forwarded_allow_ips
from marzban_bridge.errors import SettingsError
from marzban_bridge.quota.account import Enforcement
from marzban_bridge.quota.typed_limits import TypedLimits

MIN_SECRET_LENGTH = 20


class Variable(NamedTuple):
    """One environment variable: its name, its default as text, what it is for."""

    name: str
    default: str
    description: str


def _variable(
    name: str,
    default: Any,
    description: str,
    parse: Callable[[str], Any],
    *,
    is_secret: bool = False,
) -> Any:
    metadata = {"variable": Variable(name, str(default), description), "parse": parse}
    return field(default=parse(str(default)), repr=not is_secret, metadata=metadata)


def _text(raw: str) -> str:
    return raw


def whole_url(raw: str) -> str:
    """Return a URL without its last slash; ValueError for what is none, or holds a password."""
    try:
        parts = urlsplit(raw)
        httpx.URL(raw)
        is_whole = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except (ValueError, httpx.InvalidURL):  # not repeated: there may be a password in it
        is_whole = False
    if raw and not is_whole:
        raise ValueError("expected a URL such as https://panel.example.com:8000")
    if raw and parts.username is not None:
        raise ValueError("a URL with a name and password in it would end up in logs")
    return raw.rstrip("/")


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """Where in PostgreSQL the bridge's store is; its password shows in no text of it."""

    value: str = field(repr=False)

    def __str__(self) -> str:
        parts = urlsplit(self.value)
        try:
            place = f"{parts.hostname or ''}:{parts.port or 5432}"
        except ValueError:  # part of a password that is not written as it should be
            place = ""
        return f"postgresql://{place}" if place else "postgresql://…"


def _store(raw: str) -> Path | StoreUrl:
    if raw.startswith("postgresql://"):
        return StoreUrl(raw)
    if "://" in raw:  # not repeated: there may be a password in it
        raise ValueError("expected a file, or postgresql://USER:PASSWORD@HOST:5432/DATABASE")
    return Path(raw)


def _path(raw: str) -> Path | None:
    return Path(raw) if raw else None


def _names(raw: str) -> tuple[str, ...]:
    return tuple(filter(None, (name.strip() for name in raw.split(","))))


def header_text(raw: str) -> str:
    """Return a text that can go in a header; ValueError for another."""
    if not (raw.isascii() and raw.isprintable()) or " " in raw:
        raise ValueError("expected printable ASCII characters without spaces: it goes in a header")
    return raw


def _long_secret(raw: str) -> str:
    header_text(raw)
    if raw and len(raw) < MIN_SECRET_LENGTH:
        raise ValueError(f"expected at least {MIN_SECRET_LENGTH} characters, better 40 random ones")
    return raw


def _days(raw: str) -> int:
    days = int(raw)
    if not 1 <= days <= 36500:
        raise ValueError("expected a whole number of days from 1 to 36500")
    return days


def _port(raw: str) -> int:
    port = int(raw)
    if not 0 <= port <= 65535:
        raise ValueError("expected a port from 0 to 65535")
    return port


def _connections(raw: str) -> int:
    connections = int(raw)
    if not 8 <= connections <= 1_000_000:
        raise ValueError("expected a whole number from 8 to 1000000")
    return connections


def seconds_of(raw: str) -> float:
    """Return a number of seconds to wait for something; ValueError for what is none."""
    seconds = float(raw)
    if not 0.05 <= seconds <= 86400:
        raise ValueError("expected a number of seconds from 0.05 to 86400")
    return seconds


def _flag(raw: str) -> bool:
    folded = raw.strip().casefold()
    if folded in {"1", "true", "yes", "on"}:
        return True
    if folded in {"0", "false", "no", "off"}:
        return False
    raise ValueError("expected true or false")


def _enforcement(raw: str) -> Enforcement:
    try:
        return Enforcement(raw)
    except ValueError:
        names = ", ".join(mode.value for mode in Enforcement)
        raise ValueError(f"expected one of {names}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the bridge reaches the panel and the collector, and what it may do.

    `from_env` raises SettingsError naming the variable that is malformed. Secrets are kept out of
    the representation.
    """

    marzban_url: str = _variable(
        "MARZBAN_URL",
        "",
        "Where the panel answers, without a path: https://panel.example.com",
        whole_url,
    )
    marzban_username: str = _variable(
        "MARZBAN_USERNAME", "", "A sudo admin of the panel; one of its own is best", _text
    )
    marzban_password: str = _variable(
        "MARZBAN_PASSWORD", "", "That admin's password", _text, is_secret=True
    )
    marzban_timeout_seconds: float = _variable(
        "MARZBAN_TIMEOUT_SECONDS", 15, "How long one call to the panel may take", seconds_of
    )
    panels_file: Path | None = _variable(
        "BRIDGE_PANELS_FILE",
        "",
        "Further panels, as TOML; that of MARZBAN_URL is called default: docs/several-panels.md",
        _path,
    )
    quotas_span_panels: bool = _variable(
        "BRIDGE_QUOTAS_SPAN_PANELS",
        "false",
        "Users of one name on several panels share one quota, one period and their reports",
        _flag,
    )
    collector_url: str = _variable(
        "COLLECTOR_URL", "http://127.0.0.1:8080", "Where the collector answers", whole_url
    )
    collector_admin_key: str = _variable(
        "COLLECTOR_ADMIN_KEY",
        "",
        "The key that lets the bridge read the collector's feed",
        header_text,
        is_secret=True,
    )
    store: Path | StoreUrl = _variable(
        "BRIDGE_STORE",
        "./data/bridge.sqlite3",
        "The bridge's own store, a file or postgresql://… for two bridges: back it up",
        _store,
    )
    host: str = _variable(
        "BRIDGE_HOST", "127.0.0.1", "Address to listen on for webhooks and the admin API", _text
    )
    port: int = _variable("BRIDGE_PORT", 8090, "Port to listen on", _port)
    forwarded_allow_ips: tuple[str, ...] = _variable(
        "FORWARDED_ALLOW_IPS",
        "",
        "Proxies whose X-Forwarded-For is believed: addresses or networks, or *; empty: none",
        forwarded_allow_ips,
    )
    max_connections: int = _variable(
        "BRIDGE_MAX_CONNECTIONS",
        1024,
        "Open connections; a newcomer takes the place of who has been sending for longest",
        _connections,
    )
    read_seconds: float = _variable(
        "BRIDGE_READ_SECONDS",
        15,
        "How long a request's head may take, and its body beyond a second per 8 KiB",
        seconds_of,
    )
    webhook_secret: str = _variable(
        "BRIDGE_WEBHOOK_SECRET",
        "",
        "The panel's WEBHOOK_SECRET; empty refuses all webhooks and leaves polling",
        header_text,
        is_secret=True,
    )
    enforcement: Enforcement = _variable(
        "BRIDGE_ENFORCEMENT", "limit", "limit, disable, or observe (change nothing)", _enforcement
    )
    pass_seconds: float = _variable(
        "BRIDGE_PASS_SECONDS",
        60,
        "How often every user with external traffic is looked at, to notice resets without webhook",
        seconds_of,
    )
    keeps_next_plan: bool = _variable(
        "BRIDGE_KEEPS_NEXT_PLAN",
        "true",
        "Put back a next plan that a reset in the panel dropped",
        _flag,
    )
    uses_notes: bool = _variable(
        "BRIDGE_NOTES",
        "true",
        "Write quota, published limit and external bytes into the note of the panel's user",
        _flag,
    )
    typed_limits: TypedLimits = _variable(
        "BRIDGE_TYPED_LIMIT_MEANS",
        "quota",
        "A limit set in the panel is the quota, or what shall be left: quota, shop=left; "
        "docs/typed-limits.md",
        TypedLimits.parse,
    )
    action_token: str = _variable(
        "BRIDGE_ACTION_TOKEN",
        "",
        "What Grafana shows with a dashboard's buttons; empty refuses them all",
        _long_secret,
        is_secret=True,
    )
    action_logins: tuple[str, ...] = _variable(
        "BRIDGE_ACTION_LOGINS",
        "",
        "Grafana logins that may use the buttons: name,name2; empty: whoever is signed in there",
        _names,
    )
    public_url: str = _variable(
        "BRIDGE_PUBLIC_URL",
        "",
        "Where a browser reaches the bridge, for links from dashboards to its confirm pages",
        whole_url,
    )
    influxdb_url: str = _variable(
        "INFLUXDB_URL",
        "",
        "Where InfluxDB answers; empty: no time series, all else works",
        whole_url,
    )
    influxdb_org: str = _variable("INFLUXDB_ORG", "vpn", "InfluxDB's organization", _text)
    influxdb_token: str = _variable(
        "INFLUXDB_TOKEN", "", "A token that may write to its buckets", header_text, is_secret=True
    )
    influxdb_token_file: Path | None = _variable(
        "INFLUXDB_TOKEN_FILE", "", "A file with that token instead", _path
    )
    influxdb_raw_days: int = _variable(
        "INFLUXDB_RAW_DAYS", 30, "How long InfluxDB keeps what happened", _days
    )
    snapshot_seconds: float = _variable(
        "BRIDGE_SNAPSHOT_SECONDS",
        600,
        "How often everybody's standing is written to InfluxDB, beside every change of it",
        seconds_of,
    )

    @classmethod
    def from_env(cls, environment: Mapping[str, str]) -> Self:
        """Read the settings; unset and empty variables take their defaults."""
        values: dict[str, Any] = {}
        for each in fields(cls):
            variable: Variable = each.metadata["variable"]
            raw = environment.get(variable.name, "").strip()
            if not raw:
                continue
            try:
                values[each.name] = each.metadata["parse"](raw)
            except ValueError as error:
                raise SettingsError(f"{variable.name}: {error}") from None
        return cls(**values)

    @classmethod
    def variables(cls) -> list[Variable]:
        """List every variable, for the documentation and its test."""
        return [each.metadata["variable"] for each in fields(cls)]

    def require_panel(self) -> None:
        """Raise SettingsError naming what is missing to reach the panel."""
        needed = {
            "MARZBAN_URL": self.marzban_url,
            "MARZBAN_USERNAME": self.marzban_username,
            "MARZBAN_PASSWORD": self.marzban_password,
        }
        missing = [name for name, value in needed.items() if not value]
        if missing:
            raise SettingsError(
                f"{', '.join(missing)} must be set (in the environment or a .env file): "
                "the bridge signs in to the panel with them"
            )
