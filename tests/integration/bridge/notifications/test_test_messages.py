"""`doctor --test-message`: what arrives, and what is said of a place that does not take it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest

from marzban_bridge.doctor.findings import Level
from marzban_bridge.doctor.notifications import (
    NotificationObservation,
    examine_notifications,
    observe_notifications,
)
from marzban_bridge.notifications.sending import TEXT, send_test_messages
from marzban_bridge.notifications.settings import NotificationSettings
from tests.support.fixed_answers import Server, serving
from tests.support.ports import free_port

TOKEN = "123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"
TELEGRAM = NotificationSettings(telegram_token=TOKEN, telegram_chat="-1001")


@contextlib.asynccontextmanager
async def mail_server(answer):
    """A mail server that takes one mail and answers its end so; yields what was said to it."""
    said = []

    async def serve(reader, writer):
        writer.write(b"220 here\r\n")
        is_mail = False
        while line := await reader.readline():
            said.append(line.decode().rstrip())
            if is_mail and said[-1] != ".":
                continue
            word = said[-1][:4].upper()
            is_mail = word == "DATA"
            usual = {"DATA": b"354 go on\r\n", ".": answer, "QUIT": b"221 bye\r\n"}
            writer.write(usual.get(word, b"250 ok\r\n"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], said
    finally:
        server.close()


def test_telegram_takes_it():
    with serving(Server(200, body=b'{"ok": true}')) as server:
        sent = asyncio.run(send_test_messages(TELEGRAM, telegram_url=server.url))
    assert sent == {"Telegram": ""}
    assert [path for _, path, _ in server.asked] == [f"/bot{TOKEN}/sendMessage"]


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, b'{"description": "Unauthorized"}', "answered 401: Unauthorized"),
        (400, b'{"description": "Bad Request: chat not found"}', "chat not found"),
        (502, b"<html>", "another thing than JSON"),
        (403, b"[]", "answered 403"),
    ],
)
def test_what_telegram_says_is_said_and_the_token_is_not(status, body, words):
    with serving(Server(status, body=body)) as server:
        sent = asyncio.run(send_test_messages(TELEGRAM, telegram_url=server.url))
    assert words in sent["Telegram"]
    assert TOKEN not in sent["Telegram"]


def test_telegram_may_be_out_of_reach():
    url = f"http://127.0.0.1:{free_port()}"
    sent = asyncio.run(send_test_messages(TELEGRAM, telegram_url=url))
    assert "does not answer" in sent["Telegram"]
    assert TOKEN not in sent["Telegram"]


@pytest.mark.parametrize(("status", "words"), [(204, ""), (403, "answered 403")])
def test_a_webhook_is_posted_to_with_its_token(status, words):
    with serving(Server(status)) as server:
        settings = NotificationSettings(webhook_url=server.url, webhook_token="hush")
        sent = asyncio.run(send_test_messages(settings))
    assert sent["webhook"].endswith(words)
    [(method, _, headers)] = server.asked
    assert method == "POST"
    assert headers["authorization"] == "Bearer hush"


@pytest.mark.parametrize(
    ("answer", "words"), [(b"250 taken\r\n", ""), (b"554 no\r\n", "did not take the mail")]
)
async def test_a_mail_is_handed_to_the_server(answer, words):
    async with mail_server(answer) as (port, said):
        settings = NotificationSettings(
            email_to=("you@example.com",),
            email_from="grafana@example.com",
            smtp_server=("127.0.0.1", port),
        )
        sent = await send_test_messages(settings)
    assert words in sent["e-mail"]
    assert bool(sent["e-mail"]) == bool(words)
    assert "mail FROM:<grafana@example.com>" in [each.split(" size=")[0] for each in said]
    assert f"Subject: {TEXT}"[:40] in "\n".join(said)


def test_a_mail_server_may_be_out_of_reach():
    settings = NotificationSettings(
        email_to=("you@example.com",),
        email_from="grafana@example.com",
        smtp_server=("127.0.0.1", free_port()),
    )
    sent = asyncio.run(send_test_messages(settings))
    assert "did not take the mail (ConnectionRefusedError)" in sent["e-mail"]
    assert asyncio.run(send_test_messages(replace(settings, smtp_server=None))) == {}


def test_doctor_sends_nothing_unless_asked_to():
    with serving(Server(200)) as server:
        environment = {"ALERTS_WEBHOOK_URL": server.url, "ALERTS_EMAIL_TO": "nobody"}
        seen = asyncio.run(observe_notifications(environment, sends=False))
        assert server.asked == []
        tried = asyncio.run(observe_notifications(environment, sends=True))
        assert len(server.asked) == 1
    assert seen.sent == {}
    found = list(examine_notifications(tried))
    assert [(each.check, each.level) for each in found] == [
        ("settings", Level.WRONG),
        ("settings", Level.WRONG),
        ("contact points", Level.OK),
        ("webhook", Level.OK),
    ]
    assert found[0].text.startswith("ALERTS_EMAIL_TO: expected an address")


def test_doctor_says_that_alerts_go_nowhere_and_that_is_well():
    [found] = examine_notifications(NotificationObservation())
    assert found.level is Level.OK
    assert "in Grafana only" in found.text


def test_a_message_that_is_refused_is_wrong():
    seen = NotificationObservation(
        kinds=("Telegram",), sent={"Telegram": "Telegram answered 401: no"}
    )
    assert [each.level for each in examine_notifications(seen)] == [Level.OK, Level.WRONG]
