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


KINDS = {
    "xray-vars": Kind(xray.build_vars),
    "xray-command": Kind(xray.build_command),
    "xray-grpc": Kind(stats_service.build_xray, extra="grpc"),
    "singbox-grpc": Kind(stats_service.build_singbox, extra="grpc"),
    "singbox-ssm": Kind(singbox.build, "shadowsocks"),
    "outline": Kind(outline.build, "shadowsocks"),
    "remnawave": Kind(remnawave.build, extra="redis"),
    "hysteria2": Kind(hysteria2.build, "hysteria2"),
    "wireguard": Kind(wireguard.build_wireguard, "wireguard"),
    "amneziawg": Kind(wireguard.build_amneziawg, "amneziawg"),
    "command": Kind(json_command.build),
}
EXTRAS = {"grpc": "h2", "redis": "redis"}
"""The module whose presence shows that an extra is installed."""
UNUSABLE = {
    "clash": (
        "Clash's /connections does not name the user of a connection, so it cannot be billed; "
        "use singbox-grpc or singbox-ssm"
    ),
}
