"""Where a panel sends its webhooks: Marzban's environment, or PasarGuard's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from marzban_bridge.simulator.panel.errors import RefusedError


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookReceiver:
    """Where the panel sends its webhooks, and the secret it sends along."""

    url: str
    secret: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """Whether events are kept, who receives them, and how often they are tried."""

    enable: bool = True
    receivers: tuple[WebhookReceiver, ...] = ()
    days_left: tuple[int, ...] = (3,)
    usage_percent: tuple[int, ...] = (80,)
    timeout_seconds: int = 180
    deliveries: int
    """How often an event is sent at most."""


def settings_answer(settings: WebhookSettings) -> dict[str, Any]:
    """Return the settings as PasarGuard's API shows them."""
    return {
        "enable": settings.enable,
        "webhooks": [{"url": each.url, "secret": each.secret or ""} for each in settings.receivers],
        "days_left": list(settings.days_left),
        "usage_percent": list(settings.usage_percent),
        "timeout": settings.timeout_seconds,
        "recurrent": settings.deliveries,
        "proxy_url": None,
    }


def parse_settings(body: object) -> WebhookSettings:
    """Read the `webhook` of a PUT of PasarGuard's settings; RefusedError 422."""
    if not isinstance(body, Mapping):
        raise RefusedError(422, {"webhook": "Input should be an object"})
    wrong = {}
    for name in ("timeout", "recurrent"):
        if not isinstance(body.get(name), int) or body[name] <= 0:
            wrong[name] = "Input should be greater than 0"
    receivers = body.get("webhooks") or []
    for each in receivers:
        if not isinstance(each, Mapping) or not {"url", "secret"} <= each.keys():
            wrong["webhooks"] = "Field required"
    if body.get("enable") and not receivers:
        wrong["webhook"] = "Webhook cannot be enabled without at least one WebhookInfo."
    if wrong:
        raise RefusedError(422, wrong)
    return WebhookSettings(
        enable=bool(body.get("enable", False)),
        receivers=tuple(
            WebhookReceiver(url=str(each["url"]), secret=str(each["secret"])) for each in receivers
        ),
        days_left=tuple(body.get("days_left", ())),
        usage_percent=tuple(body.get("usage_percent", ())),
        timeout_seconds=body["timeout"],
        deliveries=body["recurrent"],
    )
