"""A proxy between senders and a collector that answers anything, as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from dataclasses import dataclass

PASS, DOWN = "pass", "down"
HTML = b"<html><head><title>welcome</title></head><body>a login page</body></html>"
TLS_ALERT = b"\x15\x03\x01\x00\x02\x02\x46"
HEAD_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Lie:
    """A way to answer, and what senders are to say of it: a regular expression."""

    name: str
    says: str
    seconds: float = 0.0
    """At least so long it lasts, where what is wrong shows late."""


def foreign(status: int, body: bytes = HTML, *, more: str = "") -> bytes:
    """Return an answer of another program."""
    head = f"HTTP/1.1 {status} Whatever\r\ncontent-type: text/html\r\nserver: nginx\r\n{more}"
    if status != 204:
        head += f"content-length: {len(body)}\r\n"
    return head.encode() + b"connection: close\r\n\r\n" + (b"" if status == 204 else body)


FOREIGN = {
    **{str(status): foreign(status) for status in (200, 204, 400, 401, 404, 413, 422, 500, 502)},
    "301": foreign(301, more="location: https://elsewhere.example/\r\n"),
    "429": foreign(429, more="retry-after: 2\r\n"),
    "503": foreign(503, more="retry-after: 2\r\n"),
    "json": foreign(200, b'{"status": "success", "accepted": true, "id": 7}'),
    "array": foreign(200, b"[]"),
    "truncated": foreign(200)[:-20],
    "truncated receipt": foreign(200, b'{"accepted": 1, "duplicates": 0}')[:-9],
    "nothing": b"",
    "tls": TLS_ALERT,
    "garbage": bytes(range(256)),
}
_ENDED = "ended the connection|does not answer|another program|something else"
LIES = (
    *(Lie(name, rf"something else answers {name}") for name in ("200", "204", "400", "401")),
    *(Lie(name, rf"something else answers {name}") for name in ("413", "422")),
    Lie("301", "redirect"),
    Lie("404", "answers 404"),
    *(Lie(name, rf"answers {name}") for name in ("429", "500", "502", "503")),
    Lie("json", "something else answers 200"),
    Lie("array", "something else answers 200"),
    *(Lie(name, _ENDED) for name in ("truncated", "truncated receipt", "nothing", "tls")),
    Lie("garbage", _ENDED),
    Lie("cut", _ENDED),
    Lie("half", _ENDED),
    Lie("trickle", "in time", seconds=40.0),
    Lie("slow receipt", "in time", seconds=40.0),
    Lie("another's", "another request|not about all"),
    Lie("replayed", "another request|not about all"),
    Lie(DOWN, "nothing listens"),
)


class LyingProxy:
    """Listens on one port of 127.0.0.1 in a thread of its own; `mode` says how it answers."""

    def __init__(self, port: int, upstream_port: int, *, key: str) -> None:
        self.port = port
        self.answered: Counter[str] = Counter()
        """How many requests came, by mode."""
        self._upstream_port = upstream_port
        self._key = key
        self._mode = PASS
        self._last: dict[str, bytes] = {}
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._do(self._listen())

    @property
    def mode(self) -> str:
        """How it answers."""
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        self._do(self._turn(mode))

    def close(self) -> None:
        """End."""
        self._do(self._turn(DOWN))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _do(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)  # type: ignore[arg-type]

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _turn(self, mode: str) -> None:
        self._mode = mode
        for each in list(self._open):  # what is kept alive would not notice
            each.close()
        if mode == DOWN and self._server is not None:
            self._server.close()
            self._server = None
        elif mode != DOWN and self._server is None:
            await self._listen()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                async with asyncio.timeout(HEAD_SECONDS * 10):
                    await self._answer(reader, writer)
        finally:
            self._open.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        mode = self._mode
        self.answered[mode] += 1
        if mode == "tls":  # it does not wait for the rest of what is no handshake
            writer.write(TLS_ALERT)
            await writer.drain()
            return
        body = await reader.readexactly(_length(head))
        if mode in FOREIGN:
            writer.write(FOREIGN[mode])
        elif mode == "trickle":
            await _trickle(writer, foreign(200, b" " * 4096))
        elif mode == "another's":
            writer.write(await self._ask(_empty_request(self._key)))
        elif mode == "replayed" and _route(head) in self._last:
            writer.write(self._last[_route(head)])
        else:
            answer = await self._ask(_closing(head) + body)
            if mode == PASS:
                self._last[_route(head)] = answer
                writer.write(answer)
            elif mode == "slow receipt":
                await _trickle(writer, answer)
            elif mode == "half":
                writer.write(answer[: answer.find(b"\r\n\r\n") + 9])
        await writer.drain()

    async def _ask(self, request: bytes) -> bytes:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        except OSError:
            return FOREIGN["502"]
        try:
            writer.write(request)
            await writer.drain()
            answer = await reader.read(-1)
        except OSError:
            answer = b""
        finally:
            writer.close()
        return answer or FOREIGN["502"]


def _route(head: bytes) -> str:
    return head.split(b" ", 2)[1].partition(b"?")[0].decode("latin-1")


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def _closing(head: bytes) -> bytes:
    lines = [each for each in head.split(b"\r\n") if not each.lower().startswith(b"connection:")]
    return b"\r\n".join([lines[0], b"connection: close", *lines[1:]])


def _empty_request(key: str) -> bytes:
    return (
        f"POST /v1/reports HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n"
        "content-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]"
    ).encode()


async def _trickle(writer: asyncio.StreamWriter, answer: bytes) -> None:
    ends_seconds = time.monotonic() + 300
    for place in range(0, len(answer), 2):
        writer.write(answer[place : place + 2])
        await writer.drain()
        await asyncio.sleep(0.7)
        if time.monotonic() > ends_seconds:
            return
