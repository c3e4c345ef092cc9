"""The kinds of source, and kinds that cannot be supported, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from collector.agent.requests import Parse, SourceRequest
from collector.agent.sources import (
    hysteria2,
    json_command,
    outline,
    remnawave,
    singbox,
    stats_service,
    wireguard,
    xray,
)
from collector.runtime.config.tables import Table


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of source: how to build its request, and its protocol if there is only one."""

    build: Callable[[Table], tuple[SourceRequest, Parse]]
    protocol: str = "unknown"
    extra: str | None = None
    """The extra of this package that the kind needs."""
    if_empty: str = ""
    """Why it may show no counters, other than that no user had traffic yet."""
    lowers_names: bool = False
    """Whether the program spells users' names in lower case."""


_XRAY = (
    "if users are connected, Xray's policy lacks statsUserUplink and statsUserDownlink for their "
    "level, or they have no email (docs/sources/xray.md)"
)
_WIREGUARD = (
    "there is no peer, or the agent may not see them: the tool needs a capability, and for "
    "WireGuard in user space root (docs/sources/wireguard.md)"
)
KINDS = {
    "xray-vars": Kind(xray.build_vars, if_empty=_XRAY),
    "xray-command": Kind(xray.build_command, if_empty=_XRAY),
    "xray-grpc": Kind(stats_service.build_xray, extra="grpc", if_empty=_XRAY),
    "singbox-grpc": Kind(
        stats_service.build_singbox,
        extra="grpc",
        if_empty=(
            "sing-box counts only the users that experimental.v2ray_api.stats.users lists, and "
            "none without `enabled` (docs/sources/sing-box.md)"
        ),
    ),
    "singbox-ssm": Kind(
        singbox.build,
        "shadowsocks",
        if_empty="the Shadowsocks manager has no users: is the inbound `managed`, and the path "
        "that of its `servers` (docs/sources/sing-box.md)?",
    ),
    "outline": Kind(
        outline.build, "shadowsocks", if_empty="no access key was used since Outline was started"
    ),
    "remnawave": Kind(remnawave.build, extra="redis"),
    "hysteria2": Kind(
        hysteria2.build,
        "hysteria2",
        if_empty="no user was connected since Hysteria was started",
        lowers_names=True,
    ),
    "wireguard": Kind(wireguard.build_wireguard, "wireguard", if_empty=_WIREGUARD),
    "amneziawg": Kind(wireguard.build_amneziawg, "amneziawg", if_empty=_WIREGUARD),
    "command": Kind(json_command.build, if_empty="the command prints an empty list"),
}
EXTRAS = {"grpc": "h2", "redis": "redis"}
"""The module whose presence shows that an extra is installed."""
UNUSABLE = {
    "clash": (
        "Clash's /connections does not name the user of a connection, so it cannot be billed; "
        "use singbox-grpc or singbox-ssm"
    ),
}
