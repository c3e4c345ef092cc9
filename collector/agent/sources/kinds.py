"""Which kinds of source there are, and which there cannot be and why."""

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
    """How a kind of source is configured, and the protocol it speaks where that is certain."""

    build: Callable[[Table], tuple[SourceRequest, Parse]]
    protocol: str = "unknown"
    extra: str | None = None
    """What has to be installed beside the rest: the name of an extra of this package."""


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
"""The module by which an extra is known to be there."""
UNUSABLE = {
    "clash": (
        "Clash's /connections does not say whose a connection is, so nothing can be billed by it; "
        "use singbox-grpc or singbox-ssm"
    ),
}
