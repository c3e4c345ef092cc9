"""What a test sends as bytes is answered, or not, and is never an error of the test."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

import pytest

from tests.support import raw_requests

ANSWER = b"HTTP/1.1 431 Request Header Fields Too Large\r\n\r\n"


@contextlib.contextmanager
def answering(serve):
    """Serve every connection by `serve`, one after another; yield the address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    serve(connection)

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def refuse_unread(connection):
    """Answer at the first bytes and close; what is unread then makes the close a reset."""
    connection.recv(10)
    connection.sendall(ANSWER)


def answer_all(connection):
    while connection.recv(65536):
        pass
    connection.sendall(ANSWER)


def reset(connection):
    connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("size_bytes", [11, 100_000, 20_000_000])
def test_a_refusal_is_read_wherever_in_the_request_it_comes(size_bytes):
    with answering(refuse_unread) as address:
        for _ in range(20):
            assert raw_requests.exchange(address, b"x" * size_bytes) == ANSWER


def test_an_answer_to_all_of_it_is_read():
    with answering(answer_all) as address:
        assert raw_requests.exchange(address, b"x" * 1_000_000) == ANSWER


@pytest.mark.parametrize("size_bytes", [1, 1_000_000])
def test_a_connection_that_is_reset_is_answered_with_nothing(size_bytes):
    with answering(reset) as address:
        for _ in range(100):
            assert raw_requests.exchange(address, b"x" * size_bytes) == b""


def test_what_is_sent_after_a_reset_is_told_as_not_sent():
    with answering(reset) as address, raw_requests.connect(address) as connection:
        connection.sendall(b"x")
        while not raw_requests.is_ended(connection):
            pass
        assert not raw_requests.send(connection, b"x")
        assert raw_requests.read_all(connection) == b""
