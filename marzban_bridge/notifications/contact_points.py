"""What Grafana reads of contact points and routing, from settings. Pure.

The files are JSON, which is YAML too. Grafana takes a `$` in a setting for a variable, so each is
doubled; texts are templates of `provisioning/alerting/templates.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from marzban_bridge.notifications.settings import NotificationSettings

NAME = "VPN traffic"
"""The contact point, which has a receiver for each place."""
MOST_POSTED = "2"
"""Alerts in one post of the webhook, which says how many more there are: each takes over 1 KB."""
TITLE, MESSAGE = '{{ template "traffic.title" . }}', '{{ template "traffic.message" . }}'
NAME_ALONE, ABOUT = '{{ template "traffic.name" . }}', '{{ template "traffic.about" . }}'
"""For the webhook, whose texts are made of those alerts that are left: a number would be wrong."""
ORG_ID = 1


def receivers(settings: NotificationSettings) -> list[dict[str, Any]]:
    """Return a receiver for each place that is configured."""
    found = []
    if settings.has_telegram:
        found.append(
            _receiver(
                "telegram",
                bottoken=settings.telegram_token,
                chatid=settings.telegram_chat,
                message=MESSAGE,
                parse_mode="None",
            )
        )
    if settings.has_email:
        mail = _receiver(
            "email", addresses=";".join(settings.email_to), subject=TITLE, message=MESSAGE
        )
        mail["settings"]["singleEmail"] = True
        found.append(mail)
    if settings.has_webhook:
        post = {"url": settings.webhook_url, "httpMethod": "POST", "maxAlerts": MOST_POSTED}
        if settings.webhook_token:
            post |= {
                "authorization_scheme": "Bearer",
                "authorization_credentials": settings.webhook_token,
            }
        found.append(_receiver("webhook", **post, title=NAME_ALONE, message=ABOUT))
    return found


def _receiver(kind: str, **settings: str) -> dict[str, Any]:
    return {
        "uid": f"traffic-{kind}",
        "type": kind,
        "disableResolveMessage": False,
        "settings": {name: value.replace("$", "$$") for name, value in settings.items()},
    }


def contact_file(settings: NotificationSettings, *, before: Mapping[str, Any] | None) -> Any:
    """Return the content of the file, None where there is none to be.

    `before` is what the file has now. What it names and is not configured any more is taken out of
    Grafana, routing included; a file that did so is gone the next time.
    """
    found = receivers(settings)
    old = _uids(before)
    gone = [uid for uid in old if uid not in {each["uid"] for each in found}]
    content: dict[str, Any] = {"apiVersion": 1}
    if gone:
        content["deleteContactPoints"] = [{"orgId": ORG_ID, "uid": uid} for uid in gone]
    if found:
        return content | {
            "contactPoints": [{"orgId": ORG_ID, "name": NAME, "receivers": found}],
            "policies": [_policy()],
        }
    return content | {"resetPolicies": [ORG_ID]} if gone else None


def _uids(content: Mapping[str, Any] | None) -> list[str]:
    points: Iterable[Mapping[str, Any]] = (content or {}).get("contactPoints", [])
    return [each["uid"] for point in points for each in point["receivers"]]


def _policy() -> dict[str, Any]:
    return {
        "orgId": ORG_ID,
        "receiver": NAME,
        # One message for all users near their limit, not one each
        "group_by": ["grafana_folder", "alertname"],
        "group_wait": "30s",
        "group_interval": "5m",
        "repeat_interval": "24h",
        "routes": [
            {
                "receiver": NAME,
                "object_matchers": [["severity", "=", "critical"]],
                "repeat_interval": "1h",
            }
        ],
    }


def smtp_values(settings: NotificationSettings) -> dict[str, str]:
    """Return Grafana's SMTP settings by the file that each is in; all off without e-mail.

    Only checked values are in them: a bad sender address would stop Grafana.
    """
    if not settings.has_email or settings.smtp_server is None:
        return {"enabled": "false", "host": "", "user": "", "password": "", "from_address": ""}
    host, port = settings.smtp_server
    return {
        "enabled": "true",
        "host": f"{host}:{port}",
        "user": settings.smtp_user,
        "password": settings.smtp_password,
        "from_address": settings.email_from,
    }


def with_address(rules: str, grafana_url: str) -> str:
    """Return the text of the rules with Grafana's address in links, so that Grafana shows them."""
    return rules.replace("{{ externalURL }}", f"{grafana_url}/")
