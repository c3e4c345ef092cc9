"""Lets a write to a panel begin only where no other bridge can lead before its try is over.

Each try has a time limit, after which nothing of it is sent. That is checked before
the try begins, and again right before its head and its body are sent: a process may have been
frozen in between. What cannot be known is how long a panel, or a proxy before it, takes over a
write that it has received.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import httpx

import marzban_bridge
from collector.runtime.boot_clock import seconds_now
from marzban_bridge.errors import NotLeadingError

TRY_SECONDS = 7.0
"""How long one write to a panel may take. A lease that is moved once a second outlasts it."""
CONNECTIONS = httpx.Limits(max_connections=100, max_keepalive_connections=40)
"""A panel's connections: as many are kept as requests are under way, since each new one to a far
panel takes several round trips. httpx keeps 20."""
_ABOUT_TO_SEND = ("send_request_headers.started", "send_request_body.started")


class LeadingTerm(Protocol):
    """For how long this bridge leads, and as which."""

    @property
    def holder(self) -> str:
        """Which process of which machine it is."""
        ...

    @property
    def epoch(self) -> int:
        """How often the lead had changed when it was taken."""
        ...

    @property
    def until_seconds(self) -> float:
        """Until when, by `seconds_now`, no other bridge can lead; 0 while this one does not."""
        ...


class WriteGuard:
    """Asked before each try of each write to a panel."""

    def __init__(self, lease: LeadingTerm, *, try_seconds: float = TRY_SECONDS) -> None:
        self._lease = lease
        self._try_seconds = try_seconds
        self._open_until_seconds = 0.0
        self._under_way = 0
        self._all_over = asyncio.Event()
        self._all_over.set()
        self._is_draining = False

    def headers(self) -> Mapping[str, str]:
        """Return what tells a panel's administrator which bridge wrote."""
        who = f"{self._lease.holder}; epoch {self._lease.epoch}"
        return {"user-agent": f"marzban-bridge/{marzban_bridge.__version__} ({who})"}

    def transport(self) -> httpx.AsyncBaseTransport:
        """Return a network whose kernel, too, gives up sending when a try is over."""
        option = getattr(socket, "TCP_USER_TIMEOUT", None)
        millis = int(self._try_seconds * 1000)
        options = [(socket.IPPROTO_TCP, option, millis)] if option else []
        return httpx.AsyncHTTPTransport(socket_options=options, limits=CONNECTIONS)

    @property
    def open_seconds(self) -> float:
        """For how long a write that was not answered may still be on its way, at most."""
        return max(0.0, self._open_until_seconds - seconds_now())

    async def drain(self) -> None:
        """Wait until no try is under way, and let no other begin: those wait to be cancelled."""
        self._is_draining = True
        await self._all_over.wait()

    @contextlib.asynccontextmanager
    async def one_try(self) -> AsyncIterator[dict[str, Any]]:
        """Let one write be tried; yield what makes the request check again before it sends.

        Raises NotLeadingError instead of letting it begin or be sent, and httpx.ReadTimeout when
        its time is over.
        """
        if self._is_draining:
            await asyncio.Event().wait()
        until_seconds = seconds_now() + self._try_seconds

        async def check_again(event: str, _: object) -> None:
            if event.endswith(_ABOUT_TO_SEND):
                self._demand(until_seconds)

        self._demand(until_seconds)
        self._under_way += 1
        self._all_over.clear()
        try:
            async with asyncio.timeout(self._try_seconds):
                yield {"trace": check_again}
        except BaseException as error:
            self._open_until_seconds = max(self._open_until_seconds, until_seconds)
            if isinstance(error, TimeoutError):
                raise httpx.ReadTimeout(f"no answer for {self._try_seconds:g} s") from error
            raise
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._all_over.set()

    def _demand(self, until_seconds: float) -> None:
        now_seconds = seconds_now()
        if now_seconds >= until_seconds or until_seconds > self._lease.until_seconds:
            raise NotLeadingError(
                "a write to the panel was not begun: this bridge may not lead for as long as it "
                "can take"
            )
