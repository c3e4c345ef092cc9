"""Options of a client's HTTP requests: certificates, proxy, headers, timeout."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from collector.client.errors import ClientError

DEFAULT_TIMEOUT_SECONDS = 30.0
_OURS = {"authorization", "content-type", "content-encoding", "content-length", "host"}
_OF_THE_BODY = {"content-encoding", "content-length", "transfer-encoding"}
"""Response headers about the encoding of the body; dropped, since the body is decoded by now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """The options of a client's requests; ClientError for invalid ones."""

    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    ca_file: str | Path | None = None
    proxy: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    transport: httpx.BaseTransport | httpx.AsyncBaseTransport | None = None
    is_tls: bool = True
    trusted: ssl.SSLContext = field(init=False, repr=False, compare=False)
    """Created once, since reading the certificates takes a good part of a second."""

    def __post_init__(self) -> None:
        if self.timeout_seconds <= 0:
            raise ClientError("timeout_seconds: expected a number above 0")
        if taken := sorted(_OURS & {name.lower() for name in self.headers}):
            raise ClientError(f"headers: {', '.join(taken)} is for the client to set")
        object.__setattr__(self, "trusted", self._context())
        try:
            httpx.Headers(dict(self.headers))
            if self.proxy is not None:
                httpx.Proxy(self.proxy)
        except (httpx.InvalidURL, ValueError, TypeError, AttributeError) as error:
            raise ClientError(
                "headers and proxy: expected texts, and an address such as "
                "http://proxy.example.com:3128"
            ) from error

    def connect(self) -> httpx.AsyncClient:
        """Return an httpx client with these options."""
        transport = None if self.transport is None else _asynchronous(self.transport)
        return httpx.AsyncClient(
            timeout=self.timeout_seconds,
            headers=dict(self.headers),
            verify=self.trusted,
            proxy=None if transport else self.proxy,
            transport=transport,
        )

    def _context(self) -> ssl.SSLContext:
        if self.ca_file is not None:
            try:
                return ssl.create_default_context(cafile=str(self.ca_file))
            except OSError as error:  # ssl.SSLError for a file without a certificate is one, too
                raise ClientError(f"ca_file: {self.ca_file} cannot be read: {error}") from error
        if self.is_tls and self.transport is None:
            return httpx.create_ssl_context()
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts no certificate, and is not used


class _InThread(httpx.AsyncBaseTransport):
    """A blocking transport for an event loop."""

    def __init__(self, transport: httpx.BaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await asyncio.to_thread(self._ask, request)

    def _ask(self, request: httpx.Request) -> httpx.Response:
        response = self._transport.handle_request(request)
        with contextlib.closing(response):
            content = response.read()
        headers = [(n, v) for n, v in response.headers.items() if n not in _OF_THE_BODY]
        return httpx.Response(response.status_code, headers=headers, content=content)


def _asynchronous(
    transport: httpx.BaseTransport | httpx.AsyncBaseTransport,
) -> httpx.AsyncBaseTransport:
    if isinstance(transport, httpx.AsyncBaseTransport):
        return transport
    return _InThread(transport)
