"""Sends a test message to each configured place, as Grafana would, without Grafana."""

from __future__ import annotations

import asyncio
import smtplib
from collections.abc import Awaitable, Callable
from email.message import EmailMessage

import httpx

from marzban_bridge.notifications.settings import NotificationSettings

TIMEOUT_SECONDS = 15.0
TELEGRAM_URL = "https://api.telegram.org"
TEXT = "Test message of marzban-bridge doctor: alerts will arrive here."
IMPLICIT_TLS_PORT = 465


async def send_test_messages(
    settings: NotificationSettings, *, telegram_url: str = TELEGRAM_URL
) -> dict[str, str]:
    """Return by place what went wrong, empty where the message was taken; it holds no secret."""
    places: dict[str, Callable[[], Awaitable[str]]] = {
        "Telegram": lambda: _to_telegram(settings, telegram_url),
        "e-mail": lambda: asyncio.to_thread(_by_mail, settings),
        "webhook": lambda: _post(settings),
    }
    return {kind: await places[kind]() for kind in settings.kinds}


async def _to_telegram(settings: NotificationSettings, url: str) -> str:
    body = {"chat_id": settings.telegram_chat, "text": TEXT}
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS) as client:
            answer = await client.post(f"{url}/bot{settings.telegram_token}/sendMessage", json=body)
            said = answer.json()
    except httpx.HTTPError as error:  # its text may have the address, with the token
        return f"{url} does not answer ({type(error).__name__})"
    except ValueError:
        return f"{url} answered {answer.status_code} with another thing than JSON"
    if answer.is_success:
        return ""
    why = str(said.get("description", "")) if isinstance(said, dict) else ""
    return f"Telegram answered {answer.status_code}: {why[:200]}"


async def _post(settings: NotificationSettings) -> str:
    headers = {}
    if settings.webhook_token:
        headers["authorization"] = f"Bearer {settings.webhook_token}"
    body = {"status": "test", "title": TEXT, "message": TEXT, "alerts": []}
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS) as client:
            answer = await client.post(settings.webhook_url, json=body, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"{settings.webhook_url} does not answer ({type(error).__name__})"
    return "" if answer.is_success else f"{settings.webhook_url} answered {answer.status_code}"


def _by_mail(settings: NotificationSettings) -> str:
    if settings.smtp_server is None:
        return "ALERTS_SMTP_SERVER is not set"
    host, port = settings.smtp_server
    message = EmailMessage()
    message["From"], message["To"] = settings.email_from, ", ".join(settings.email_to)
    message["Subject"] = TEXT
    message.set_content(TEXT)
    kind = smtplib.SMTP_SSL if port == IMPLICIT_TLS_PORT else smtplib.SMTP
    try:
        with kind(host, port, timeout=TIMEOUT_SECONDS) as server:
            server.ehlo()
            if kind is smtplib.SMTP and server.has_extn("starttls"):
                server.starttls()
                server.ehlo()
            if settings.smtp_user:
                server.login(settings.smtp_user, settings.smtp_password)
            server.send_message(message)
    except (OSError, smtplib.SMTPException) as error:
        return f"{host}:{port} did not take the mail ({type(error).__name__})"
    return ""
