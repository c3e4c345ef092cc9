"""The configured panels: the one of `MARZBAN_URL`, and those of the panels file.

[two]                                    # the panel's name: `two/alice` is its user alice
url = "https://two.example.com"
username = "bridge"
password = "..."                         # PasarGuard: or api_key = "pg_key_..." alone
kind = "pasarguard"                      # default: asked of the panel
webhook_secret = "..."                   # default: derived; see marzban-bridge panels webhook two
timeout_seconds = 15                     # default: MARZBAN_TIMEOUT_SECONDS
typed_limit_means = "left"               # default: BRIDGE_TYPED_LIMIT_MEANS
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from collector.runtime.config import ConfigError
from collector.runtime.config.files import read_config_file
from collector.runtime.config.tables import Table, parse_toml
from collector.runtime.config.values import TEXT, WEB_URL, header_text, member_of, optional, text
from marzban_bridge.config.settings import SECONDS, Settings
from marzban_bridge.config.webhook_secrets import own_and_shared
from marzban_bridge.panels.dialect import PanelKind
from marzban_bridge.panels.names import FIRST_PANEL, PANEL_NAME
from marzban_bridge.quota.typed_limits import TypedLimits

MAX_PANELS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelSettings:
    """How one panel is reached, and which secrets its webhooks carry."""

    name: str
    url: str
    username: str
    password: str = field(repr=False)
    api_key: str = field(default="", repr=False)
    """Taken in place of name and password; empty for none."""
    kind: PanelKind | None = None
    """None: the panel is asked which it is."""
    timeout_seconds: float
    webhook_secret: str = field(repr=False)
    """The secret that this panel alone has; empty refuses all webhooks."""
    typed_limits: TypedLimits
    shared_webhook_secret: str = field(default="", repr=False)
    """A secret that other panels have too: its webhooks queue users, and report no reset."""


def load_panels(settings: Settings) -> tuple[PanelSettings, ...]:
    """Return the panels in configured order; ConfigError names what is wrong, and where."""
    settings.require_panel()
    first = PanelSettings(
        name=FIRST_PANEL,
        url=settings.marzban_url,
        username=settings.marzban_username,
        password=settings.marzban_password,
        api_key=settings.marzban_api_key,
        kind=settings.marzban_kind,
        timeout_seconds=settings.marzban_timeout_seconds,
        webhook_secret=settings.webhook_secret,
        typed_limits=settings.typed_limits,
    )
    path = settings.panels_file
    if path is None:
        return (first,)
    return read_config_file(
        path, lambda text: read_panels(text, first=first), setting="BRIDGE_PANELS_FILE"
    )


def read_panels(text: str, *, first: PanelSettings) -> tuple[PanelSettings, ...]:
    """Read a panels file; ConfigError says in one line what is wrong with it, and where."""
    document = Table("", parse_toml(text))
    panels = [first]
    secrets: dict[str, str | None] = {}
    for name in document:
        if not PANEL_NAME.fullmatch(name):
            raise ConfigError(
                f"[{name!r}] cannot be a panel's name: use 1 to 32 of a-z, 0-9 and -, not first -"
            )
        if name == FIRST_PANEL:
            raise ConfigError(f"[{name}] is the name of the panel of MARZBAN_URL; use another name")
        entry = document.table(name)
        panels.append(_panel(name, entry, first))
        secrets[name] = panels[-1].webhook_secret if "webhook_secret" in entry else None
    if len(panels) > MAX_PANELS:
        raise ConfigError(f"one bridge serves at most {MAX_PANELS} panels")
    names: dict[str, str] = {}
    for panel in panels:
        other = names.setdefault(panel.url.lower(), panel.name)
        if other != panel.name:
            raise ConfigError(
                f"[{panel.name}] url is also the url of panel {other}: give each panel its own"
            )
    own = own_and_shared(secrets, first=first.webhook_secret)
    for place, panel in enumerate(panels[1:], start=1):
        secret, shared = own[panel.name]
        panels[place] = replace(panel, webhook_secret=secret, shared_webhook_secret=shared)
    return tuple(panels)


def _panel(name: str, entry: Table, first: PanelSettings) -> PanelSettings:
    api_key = entry.get("api_key", header_text(), "")
    found = PanelSettings(
        name=name,
        url=entry.get("url", WEB_URL),
        username=entry.get("username", TEXT, "") if api_key else entry.get("username", TEXT),
        password=entry.get("password", TEXT, "") if api_key else entry.get("password", TEXT),
        api_key=api_key,
        kind=entry.get("kind", optional(member_of(PanelKind)), None),
        timeout_seconds=entry.get("timeout_seconds", SECONDS, first.timeout_seconds),
        webhook_secret=entry.get("webhook_secret", header_text(), ""),
        typed_limits=entry.get("typed_limit_means", text(TypedLimits.parse), first.typed_limits),
    )
    entry.finish()
    return found
