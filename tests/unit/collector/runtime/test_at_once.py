"""Shortcuts past ASGI's messages: what is sent is the same, and what must wait is not sent."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from collector.runtime.http.at_once import is_body_there, send_at_once
from tests.support.rows import for_each

BODY = b'{"accepted":1}'
HEADERS = b"content-length: 14\r\ncontent-type: application/json\r\n"


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.written += data

    def is_closing(self) -> bool:
        """Never."""
        return False

    def pause_reading(self) -> None:
        """Do nothing."""

    def resume_reading(self) -> None:
        """Do nothing."""


def cycle_on(wire: Wire, ended: list[bool], **changes: Any) -> RequestResponseCycle:
    """Return a request of a connection that stays open, as uvicorn makes it."""
    log = logging.getLogger(__name__)
    made = RequestResponseCycle(
        scope=cast("Any", {"type": "http", "method": "POST"}),
        transport=cast("asyncio.Transport", wire),
        flow=FlowControl(cast("asyncio.Transport", wire)),
        logger=log,
        access_logger=log,
        access_log=False,
        default_headers=[(b"date", b"Sun, 29 Nov 2026 00:00:00 GMT")],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=True,
        on_response=lambda: ended.append(True),
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


async def test_an_answer_sent_at_once_is_what_messages_would_send() -> None:
    by_messages, at_once = Wire(), Wire()
    ended_by_messages: list[bool] = []
    ended_at_once: list[bool] = []
    usual = cycle_on(by_messages, ended_by_messages)
    headers = [(b"content-length", b"14"), (b"content-type", b"application/json")]
    await usual.send({"type": "http.response.start", "status": 200, "headers": headers})
    await usual.send({"type": "http.response.body", "body": BODY, "more_body": False})
    short = cycle_on(at_once, ended_at_once)
    assert send_at_once(short.send, HEADERS, BODY)
    assert at_once.written == by_messages.written
    assert ended_at_once == ended_by_messages == [True]
    assert short.response_complete


def _paused() -> FlowControl:
    flow = FlowControl(cast("asyncio.Transport", Wire()))
    flow.pause_writing()
    return flow


@for_each(
    ("field", "value"),
    [
        ("keep_alive", False),
        ("response_started", True),
        ("disconnected", True),
        ("access_log", True),
        ("flow", _paused()),
    ],
)
def test_an_answer_is_left_to_messages_where_it_is_not_plain(field: str, value: object) -> None:
    wire, ended = Wire(), list[bool]()
    cycle = cycle_on(wire, ended, **{field: value})
    assert not send_at_once(cycle.send, HEADERS, BODY)
    assert (wire.written, ended) == (b"", [])


def test_an_answer_is_left_to_messages_under_another_server() -> None:
    async def send(message: Any) -> None:
        raise AssertionError(message)

    assert not send_at_once(send, HEADERS, BODY)


async def test_a_body_is_there_once_its_request_was_read_whole() -> None:
    cycle = cycle_on(Wire(), [])
    assert not is_body_there(cycle.receive)
    cycle.more_body = False
    assert is_body_there(cycle.receive)
