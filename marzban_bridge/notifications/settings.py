"""The settings of the places that alerts are sent to, each read alone: a bad one stops nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from collector.runtime.config.values import ADDRESS, EXACT_URL, LINE, WEB_URL, header_text, text
from collector.runtime.config.variables import Variable, read_each, variable, variables_of

_TOKEN = re.compile(r"[0-9]{5,20}:[A-Za-z0-9_-]{30,64}")
_CHAT = re.compile(r"-?[0-9]{1,20}|@[A-Za-z][A-Za-z0-9_]{3,40}")
_EMAIL = re.compile(r"[A-Za-z0-9.!#%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,190}\.[A-Za-z]{2,63}")


def _telegram_token(raw: str) -> str:
    if not _TOKEN.fullmatch(raw):  # not repeated: it is a secret
        raise ValueError("expected a bot's token as BotFather gives it: digits:letters and digits")
    return raw


def _telegram_chat(raw: str) -> str:
    if not _CHAT.fullmatch(raw):
        raise ValueError("expected a chat's number, such as -1001234567890, or @name of a channel")
    return raw


def _email(raw: str) -> str:
    if not _EMAIL.fullmatch(raw):
        raise ValueError(f"expected an address such as you@example.com, not {raw[:64]!r}")
    return raw


def _emails(raw: str) -> tuple[str, ...]:
    return tuple(_email(each.strip()) for each in re.split(r"[,;]", raw) if each.strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationSettings:
    """Where notifications of alerts go: Telegram, e-mail, a webhook; none is on by default."""

    telegram_token: str = variable(
        "ALERTS_TELEGRAM_TOKEN",
        "",
        "The token of the bot that sends alerts",
        text(_telegram_token),
        is_secret=True,
    )
    telegram_chat: str = variable(
        "ALERTS_TELEGRAM_CHAT",
        "",
        "The chat it sends to: a number, or @name of a channel",
        text(_telegram_chat),
    )
    email_to: tuple[str, ...] = variable(
        "ALERTS_EMAIL_TO", "", "Addresses that alerts are mailed to", text(_emails, empty=())
    )
    email_from: str = variable(
        "ALERTS_EMAIL_FROM", "", "The address that these mails come from", text(_email)
    )
    smtp_server: tuple[str, int] | None = variable(
        "ALERTS_SMTP_SERVER",
        "",
        "The mail server that takes them: mail.example.com:587",
        text(ADDRESS.of_text, empty=None),
    )
    smtp_user: str = variable(
        "ALERTS_SMTP_USER", "", "The name to sign in there; empty: without signing in", LINE
    )
    smtp_password: str = variable(
        "ALERTS_SMTP_PASSWORD", "", "The password to it", LINE, is_secret=True
    )
    webhook_url: str = variable(
        "ALERTS_WEBHOOK_URL", "", "Where alerts are posted as JSON", EXACT_URL
    )
    webhook_token: str = variable(
        "ALERTS_WEBHOOK_TOKEN",
        "",
        "Sent with it as `Authorization: Bearer`; empty: nothing is",
        header_text(),
        is_secret=True,
    )
    grafana_url: str = variable(
        "GRAFANA_ROOT_URL",
        "http://localhost:3000",
        "Where a browser reaches Grafana, for the links in alerts",
        WEB_URL,
    )

    @classmethod
    def variables(cls) -> list[Variable]:
        """List every variable, for the documentation and its test."""
        return variables_of(cls)

    @property
    def has_telegram(self) -> bool:
        """Whether alerts go to Telegram."""
        return bool(self.telegram_token and self.telegram_chat)

    @property
    def has_email(self) -> bool:
        """Whether alerts go by e-mail."""
        return bool(self.email_to and self.email_from and self.smtp_server)

    @property
    def has_webhook(self) -> bool:
        """Whether alerts are posted."""
        return bool(self.webhook_url)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of the places that are complete."""
        found = {"Telegram": self.has_telegram, "e-mail": self.has_email}
        return tuple(
            kind for kind, is_on in (found | {"webhook": self.has_webhook}).items() if is_on
        )


TOGETHER = (
    ("Telegram", ("ALERTS_TELEGRAM_TOKEN", "ALERTS_TELEGRAM_CHAT")),
    ("e-mail", ("ALERTS_EMAIL_TO", "ALERTS_EMAIL_FROM", "ALERTS_SMTP_SERVER")),
)
"""What each place needs; with a part of it nothing is sent there."""


def read_notification_settings(
    environment: Mapping[str, str],
) -> tuple[NotificationSettings, tuple[str, ...]]:
    """Return the settings that are well formed, and what is wrong with the others.

    Never raises for a value: the place of a malformed one is off, and the text says which it is.
    """
    values, faults = read_each(NotificationSettings, environment)
    problems = [f"{name}: {fault}" for name, fault in faults.items()]
    for kind, names in TOGETHER:
        missing = [name for name in names if not environment.get(name, "").strip()]
        if missing and len(missing) < len(names):
            problems.append(f"{', '.join(missing)} must be set too: nothing is sent by {kind}")
    if "ALERTS_WEBHOOK_TOKEN" in faults:
        values.pop("webhook_url", None)
    return NotificationSettings(**values), tuple(problems)
