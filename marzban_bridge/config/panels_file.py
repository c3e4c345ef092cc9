"""The panels there are: that of `MARZBAN_URL`, and those of the panels file.

[two]                                    # by this it is known: `two/alice` is its alice
url = "https://two.example.com"
username = "bridge"
password = "..."
webhook_secret = "..."                   # else it is derived: marzban-bridge panels webhook two
timeout_seconds = 15                     # if it is not MARZBAN_TIMEOUT_SECONDS
typed_limit_means = "left"               # if it is not BRIDGE_TYPED_LIMIT_MEANS
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from marzban_bridge.config.settings import Settings, header_text, seconds_of, whole_url
from marzban_bridge.errors import SettingsError
from marzban_bridge.panels.names import FIRST_PANEL, PANEL_NAME
from marzban_bridge.panels.webhook_secrets import own_and_shared
from marzban_bridge.quota.typed_limits import HINT, TypedLimits

MAX_PANELS = 64
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelSettings:
    """How one panel is reached, and by what its webhooks are known."""

    name: str
    url: str
    username: str
    password: str = field(repr=False)
    timeout_seconds: float
    webhook_secret: str = field(repr=False)
    """The panel's own; empty refuses all webhooks."""
    typed_limits: TypedLimits
    shared_webhook_secret: str = field(default="", repr=False)
    """One that other panels have, too: webhooks with it only have users looked at."""


def load_panels(settings: Settings) -> tuple[PanelSettings, ...]:
    """Return the panels in their order; SettingsError names what is missing or wrong, and where."""
    settings.require_panel()
    first = PanelSettings(
        name=FIRST_PANEL,
        url=settings.marzban_url,
        username=settings.marzban_username,
        password=settings.marzban_password,
        timeout_seconds=settings.marzban_timeout_seconds,
        webhook_secret=settings.webhook_secret,
        typed_limits=settings.typed_limits,
    )
    path = settings.panels_file
    if path is None:
        return (first,)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(f"BRIDGE_PANELS_FILE {path}: {reason}") from error
    try:
        return read_panels(text, first=first)
    except SettingsError as error:
        raise SettingsError(f"BRIDGE_PANELS_FILE {path}: {error}") from error


def read_panels(text: str, *, first: PanelSettings) -> tuple[PanelSettings, ...]:
    """Read a panels file; SettingsError says in one line what is wrong with it, and where."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"it is not TOML: {error}") from error
    panels = [first]
    secrets: dict[str, str | None] = {}
    for name, entry in document.items():
        if not PANEL_NAME.fullmatch(name):
            raise SettingsError(
                f"[{name!r}] is no panel's name: 1 to 32 of a-z, 0-9 and -, not beginning with -"
            )
        if name == FIRST_PANEL:
            raise SettingsError(f"[{name}] is the panel of MARZBAN_URL; name this one otherwise")
        if not isinstance(entry, dict):
            raise SettingsError(f"{name} must be a table, as in [{name}]")
        panels.append(_panel(name, entry, first))
        secrets[name] = panels[-1].webhook_secret if "webhook_secret" in entry else None
    if len(panels) > MAX_PANELS:
        raise SettingsError(f"one bridge serves at most {MAX_PANELS} panels")
    names: dict[str, str] = {}
    for panel in panels:
        other = names.setdefault(panel.url.lower(), panel.name)
        if other != panel.name:
            raise SettingsError(
                f"[{panel.name}] url is that of panel {other}: each must be another panel"
            )
    own = own_and_shared(secrets, first=first.webhook_secret)
    for place, panel in enumerate(panels[1:], start=1):
        secret, shared = own[panel.name]
        panels[place] = replace(panel, webhook_secret=secret, shared_webhook_secret=shared)
    return tuple(panels)


def _panel(name: str, entry: Mapping[str, Any], first: PanelSettings) -> PanelSettings:
    known = {
        "url",
        "username",
        "password",
        "webhook_secret",
        "timeout_seconds",
        "typed_limit_means",
    }
    if unknown := sorted(set(entry) - known):
        raise SettingsError(
            f"[{name}] {unknown[0]} is not known; known: {', '.join(sorted(known))}"
        )
    values: dict[str, str] = {}
    for key in ("url", "username", "password"):
        value = entry.get(key, "")
        if not isinstance(value, str) or not value:
            raise SettingsError(f"[{name}] {key} must be set, as a text")
        values[key] = value
    secret = entry.get("webhook_secret", "")
    if not isinstance(secret, str):
        raise SettingsError(f"[{name}] webhook_secret must be a text")
    timeout = entry.get("timeout_seconds", first.timeout_seconds)
    meant = entry.get("typed_limit_means", str(first.typed_limits))
    if not isinstance(meant, str):
        raise SettingsError(f"[{name}] typed_limit_means must be a text, as in {HINT!r}")
    return PanelSettings(
        name=name,
        url=_checked(name, "url", lambda: whole_url(values["url"])),
        username=values["username"],
        password=values["password"],
        timeout_seconds=_checked(name, "timeout_seconds", lambda: seconds_of(str(timeout))),
        webhook_secret=_checked(name, "webhook_secret", lambda: header_text(secret)),
        typed_limits=_checked(name, "typed_limit_means", lambda: TypedLimits.parse(meant)),
    )


def _checked(name: str, key: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except ValueError as error:
        raise SettingsError(f"[{name}] {key}: {error}") from None
