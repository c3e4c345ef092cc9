"""How many connections a server keeps: what is asked for, and what the machine has files for."""

from __future__ import annotations

import resource

import pytest

from collector.runtime.http.limits import (
    FILES_BESIDE_CONNECTIONS,
    CoalescingTransport,
    bounded,
    room_for,
)

INFINITE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("limits", "asked", "kept", "soft_afterwards"),
    [
        ((1024, 100_000), 500, 500, 1024),
        ((1024, 100_000), 4096, 4096, 4096 + FILES_BESIDE_CONNECTIONS),
        ((1024, 1024), 4096, 1024 - FILES_BESIDE_CONNECTIONS, 1024),
        ((1024, INFINITE), 4096, 4096, 4096 + FILES_BESIDE_CONNECTIONS),
        ((INFINITE, INFINITE), 4096, 4096, INFINITE),
        ((64, 64), 4096, 1, 64),
    ],
)
def test_the_limit_on_files_is_raised_as_far_as_needed_and_allowed(
    monkeypatch, limits, asked, kept, soft_afterwards
):
    current = [limits]
    monkeypatch.setattr(resource, "getrlimit", lambda _: current[0])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: current.__setitem__(0, new))
    assert room_for(asked) == kept
    assert current[0] == (soft_afterwards, limits[1])


def test_each_server_has_places_of_its_own():
    one, other = (bounded(connections=8, read_seconds=1) for _ in range(2))
    assert one.senders is not other.senders


class Transport:
    """Remembers what was written, each time."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.written.append(b"closed")

    is_closing = get_extra_info = pause_reading = resume_reading = abort = None


HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    ("writes", "packets"),
    [
        ([HEAD, b"body"], [HEAD + b"body"]),
        ([HEAD, b"one", b"two"], [HEAD + b"one", b"two"]),
        ([HEAD, b""], [HEAD]),
        ([HEAD, None], [HEAD]),
        ([None], []),
        ([HEAD, b"body", HEAD, b"next"], [HEAD + b"body", HEAD + b"next"]),
        ([b"HTTP/1.1 100 Continue\r\n\r\n"], [b"HTTP/1.1 100 Continue\r\n\r\n"]),
        ([HEAD, HEAD], [HEAD + HEAD]),
    ],
    ids=["whole", "streamed", "empty body", "no body", "nothing", "two", "continue", "like a head"],
)
def test_an_answers_head_is_written_together_with_what_follows(writes, packets):
    transport = Transport()
    whole = CoalescingTransport(transport)
    for data in writes:
        whole.flush() if data is None else whole.write(data)
    assert transport.written == packets


def test_a_head_is_not_lost_when_the_connection_is_closed():
    transport = Transport()
    whole = CoalescingTransport(transport)
    whole.write(HEAD)
    whole.close()
    assert transport.written == [HEAD, b"closed"]
