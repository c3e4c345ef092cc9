"""The bridge's settings: the only reader of the environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from collector.runtime.config import ConfigError
from collector.runtime.config.values import (
    FLAG,
    PATH,
    TEXT,
    WEB_URL,
    comma_list,
    header_text,
    member_of,
    optional,
    seconds,
    text,
    whole,
)
from collector.runtime.config.variables import variable
from collector.shared_settings import SharedSettings
from marzban_bridge.panels.dialect import PanelKind
from marzban_bridge.quota.account import Enforcement
from marzban_bridge.quota.typed_limits import TypedLimits

MIN_SECRET_LENGTH = 20
SECONDS = seconds(0.05, 86400)


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """The PostgreSQL URL of the bridge's store; `str` leaves its password out."""

    value: str = field(repr=False)

    def __str__(self) -> str:
        parts = urlsplit(self.value)
        try:
            place = f"{parts.hostname or ''}:{parts.port or 5432}"
        except ValueError:  # a password with characters that are not percent-encoded
            place = ""
        return f"postgresql://{place}" if place else "postgresql://…"


def _store(raw: str) -> Path | StoreUrl:
    if raw.startswith("postgresql://"):
        return StoreUrl(raw)
    if "://" in raw:  # the value is not quoted: it may contain a password
        raise ValueError("expected a file, or postgresql://USER:PASSWORD@HOST:5432/DATABASE")
    return Path(raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(SharedSettings):
    """How the bridge reaches the panel and the collector, and what it may do.

    `from_env` raises ConfigError naming the variable that is malformed. `repr` omits secrets.
    """

    marzban_url: str = variable(
        "MARZBAN_URL",
        "",
        "The panel's address, without a path: https://panel.example.com",
        WEB_URL,
    )
    marzban_username: str = variable(
        "MARZBAN_USERNAME",
        "",
        "A sudo admin of the panel; best one that only the bridge uses",
        TEXT,
    )
    marzban_password: str = variable(
        "MARZBAN_PASSWORD", "", "That admin's password", TEXT, is_secret=True
    )
    marzban_api_key: str = variable(
        "MARZBAN_API_KEY",
        "",
        "An API key of PasarGuard, in place of name and password: docs/pasarguard.md",
        header_text(),
        is_secret=True,
    )
    marzban_kind: PanelKind | None = variable(
        "MARZBAN_KIND",
        "",
        "marzban or pasarguard; empty: the panel is asked which it is",
        optional(member_of(PanelKind)),
    )
    marzban_timeout_seconds: float = variable(
        "MARZBAN_TIMEOUT_SECONDS", 15, "How long one call to the panel may take", SECONDS
    )
    panels_file: Path | None = variable(
        "BRIDGE_PANELS_FILE",
        "",
        "TOML file of further panels; the one of MARZBAN_URL is named default: "
        "docs/several-panels.md",
        PATH,
    )
    quotas_span_panels: bool = variable(
        "BRIDGE_QUOTAS_SPAN_PANELS",
        "false",
        "Users with one name on several panels share one quota, one period and their reports",
        FLAG,
    )
    collector_url: str = variable(
        "COLLECTOR_URL", "http://127.0.0.1:8080", "The collector's address", WEB_URL
    )
    collector_admin_key: str = variable(
        "COLLECTOR_ADMIN_KEY",
        "",
        "The key that lets the bridge read the collector's feed",
        header_text(MIN_SECRET_LENGTH),
        is_secret=True,
    )
    store: Path | StoreUrl = variable(
        "BRIDGE_STORE",
        "./data/bridge.sqlite3",
        "The bridge's store: a file, or postgresql://… for two bridges; back it up",
        text(_store),
        is_secret=True,
    )
    host: str = variable(
        "BRIDGE_HOST", "127.0.0.1", "Address to listen on for webhooks and the admin API", TEXT
    )
    port: int = variable("BRIDGE_PORT", 8090, "Port to listen on", whole(0, 65535))
    max_connections: int = variable(
        "BRIDGE_MAX_CONNECTIONS",
        1024,
        "Maximum of open connections; beyond it, the one sending its request longest is closed",
        whole(8, 1_000_000),
    )
    read_seconds: float = variable(
        "BRIDGE_READ_SECONDS",
        15,
        "Seconds to send a request's head, and its body on top of one second per 8 KiB",
        SECONDS,
    )
    webhook_secret: str = variable(
        "BRIDGE_WEBHOOK_SECRET",
        "",
        "The panel's WEBHOOK_SECRET; empty: webhooks are refused, and passes notice resets",
        header_text(),
        is_secret=True,
    )
    enforcement: Enforcement = variable(
        "BRIDGE_ENFORCEMENT",
        "limit",
        "limit, disable, or observe (change nothing)",
        member_of(Enforcement),
    )
    pass_seconds: float = variable(
        "BRIDGE_PASS_SECONDS",
        60,
        "Interval of passes over all users with external traffic; they need no webhook",
        SECONDS,
    )
    keeps_next_plan: bool = variable(
        "BRIDGE_KEEPS_NEXT_PLAN",
        "true",
        "Restore a next plan that a reset in the panel dropped",
        FLAG,
    )
    uses_notes: bool = variable(
        "BRIDGE_NOTES",
        "true",
        "Write quota, published limit and external bytes into the note of the panel's user",
        FLAG,
    )
    typed_limits: TypedLimits = variable(
        "BRIDGE_TYPED_LIMIT_MEANS",
        "quota",
        "Whether a limit set in the panel is the quota or what is left of it: quota, shop=left; "
        "docs/typed-limits.md",
        text(TypedLimits.parse),
    )
    action_token: str = variable(
        "BRIDGE_ACTION_TOKEN",
        "",
        "The secret that Grafana sends with a dashboard's buttons; empty: buttons are refused",
        header_text(MIN_SECRET_LENGTH),
        is_secret=True,
    )
    action_logins: tuple[str, ...] = variable(
        "BRIDGE_ACTION_LOGINS",
        "",
        "Grafana logins that may use the buttons: name,name2; *: all signed in; empty: none",
        text(comma_list, empty=()),
    )
    public_url: str = variable(
        "BRIDGE_PUBLIC_URL",
        "",
        "The bridge's address in a browser, for links from dashboards to its confirm pages",
        WEB_URL,
    )
    dashboards_url: str = variable(
        "BRIDGE_DASHBOARDS_URL",
        "",
        "Grafana's address in a browser, for the link back from the confirm pages",
        WEB_URL,
    )
    snapshot_seconds: float = variable(
        "BRIDGE_SNAPSHOT_SECONDS",
        600,
        "How often each user's quota and usage are written to InfluxDB, besides when they change",
        SECONDS,
    )

    events_retention_days: int = variable(
        "BRIDGE_EVENTS_RETENTION_DAYS",
        90,
        "Days after which events are deleted from the store, except changes of quotas; 0: never",
        whole(0, 36500),
    )

    def require_panel(self) -> None:
        """Raise ConfigError naming what is missing to reach the panel."""
        needed = {"MARZBAN_URL": self.marzban_url}
        if not self.marzban_api_key:
            needed |= {
                "MARZBAN_USERNAME": self.marzban_username,
                "MARZBAN_PASSWORD": self.marzban_password,
            }
        missing = [name for name, value in needed.items() if not value]
        if missing:
            raise ConfigError(
                f"{', '.join(missing)} must be set (in the environment or a .env file): "
                "the bridge signs in to the panel with them"
            )
