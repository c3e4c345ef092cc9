"""Settings of contact points: what is well formed, and that a bad one is said and stops nothing."""

from __future__ import annotations

import pytest

from marzban_bridge.notifications.settings import NotificationSettings, read_notification_settings

TOKEN = "123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"
TELEGRAM = {"ALERTS_TELEGRAM_TOKEN": TOKEN, "ALERTS_TELEGRAM_CHAT": "-1001234567890"}
EMAIL = {
    "ALERTS_EMAIL_TO": "you@example.com, me@example.com",
    "ALERTS_EMAIL_FROM": "grafana@example.com",
    "ALERTS_SMTP_SERVER": "mail.example.com:587",
}
WEBHOOK = {"ALERTS_WEBHOOK_URL": "https://alerts.example.com/grafana?to=1"}


def test_nothing_is_on_by_itself():
    settings, problems = read_notification_settings({})
    assert settings == NotificationSettings()
    assert (settings.kinds, problems) == ((), ())


def test_each_place_is_on_when_its_settings_are_there():
    settings, problems = read_notification_settings({**TELEGRAM, **EMAIL, **WEBHOOK})
    assert problems == ()
    assert settings.kinds == ("Telegram", "e-mail", "webhook")
    assert settings.email_to == ("you@example.com", "me@example.com")
    assert settings.smtp_server == ("mail.example.com", 587)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALERTS_TELEGRAM_TOKEN", "my-bot"),
        ("ALERTS_TELEGRAM_TOKEN", "123:short"),
        ("ALERTS_TELEGRAM_TOKEN", f"bot{TOKEN}"),
        ("ALERTS_TELEGRAM_TOKEN", "$TOKEN"),
        ("ALERTS_TELEGRAM_CHAT", "my group"),
        ("ALERTS_TELEGRAM_CHAT", "@"),
        ("ALERTS_TELEGRAM_CHAT", "-100123abc"),
        ("ALERTS_EMAIL_TO", "nobody"),
        ("ALERTS_EMAIL_TO", "a@example.com,b"),
        ("ALERTS_EMAIL_FROM", "Grafana <grafana@example.com>"),
        ("ALERTS_SMTP_SERVER", "mail.example.com"),
        ("ALERTS_SMTP_SERVER", "mail.example.com:smtp"),
        ("ALERTS_WEBHOOK_URL", "alerts.example.com"),
        ("ALERTS_WEBHOOK_URL", "https://user:secret@example.com"),
        ("ALERTS_WEBHOOK_TOKEN", "with a blank"),
    ],
)
def test_a_bad_value_turns_its_place_off_and_is_named(name, value):
    """Grafana does not start with a malformed contact point."""
    settings, problems = read_notification_settings({**TELEGRAM, **EMAIL, **WEBHOOK, name: value})
    place = {"T": "Telegram", "E": "e-mail", "S": "e-mail", "W": "webhook"}[name[7]]
    assert place not in settings.kinds
    assert len(settings.kinds) == 2
    [problem] = problems
    assert problem.startswith(f"{name}: expected") or "name and password" in problem


@pytest.mark.parametrize("name", [*TELEGRAM, *EMAIL])
def test_a_part_of_a_place_is_said_to_be_missing(name):
    settings, problems = read_notification_settings({**TELEGRAM, **EMAIL, **WEBHOOK, name: " "})
    assert len(settings.kinds) == 2
    [problem] = problems
    assert problem.startswith(f"{name} must be set too: nothing is sent by ")


def test_secrets_are_in_no_problem_and_no_representation():
    secrets = {
        "ALERTS_TELEGRAM_TOKEN": f"{TOKEN}!",
        "ALERTS_WEBHOOK_TOKEN": "hush hush",
        "ALERTS_SMTP_PASSWORD": "psst\n",
    }
    settings, problems = read_notification_settings({**TELEGRAM, **EMAIL, **WEBHOOK, **secrets})
    shown = f"{settings} {problems}"
    assert TOKEN not in shown
    assert "hush" not in shown
    assert "psst" not in shown
