"""Maps an exception of httpx to a FailureKind and a message."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

import httpx

from collector.client.errors import FailureKind
from collector.client.sending.delivery import NoAnswer

LONGEST_DETAIL = 200
_UNSENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
    UnicodeError,
)
"""Raised before any of a request is sent."""


def no_answer(error: Exception) -> NoAnswer:
    """Return why there is no answer."""
    kind, says = _told_by_causes(error) or _told_by_itself(error)
    return NoAnswer(kind, says, isinstance(error, _UNSENT))


_WITHOUT_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"}
"""What OpenSSL calls the answer of a server that speaks plain HTTP."""


def _told_by_causes(error: Exception) -> tuple[FailureKind, str] | None:
    causes = list(_causes(error))
    for each in causes:
        if isinstance(each, socket.gaierror):
            return "dns", "is not found: its host name has no address"
        if isinstance(each, ssl.SSLCertVerificationError):
            return "certificate", f"shows a certificate that is not trusted: {each.verify_message}"
        if isinstance(each, ssl.SSLError):
            return "tls", f"does not speak TLS as it should: {_tls_fault(each)}"
    if any(isinstance(each, ConnectionRefusedError) for each in causes):
        return "refused", "is not running: nothing listens at its address"
    return None


def _tls_fault(error: ssl.SSLError) -> str:
    reason = error.reason or type(error).__name__
    if reason in _WITHOUT_TLS:
        return "it answers without TLS; does its address begin with http://?"
    return reason.replace("_", " ").lower()


def _told_by_itself(error: Exception) -> tuple[FailureKind, str]:
    if isinstance(error, (httpx.TimeoutException, TimeoutError)):
        return "timeout", "does not answer in time"
    if isinstance(error, httpx.ProxyError):
        return "proxy", f"is not reached: the proxy says {_detail(error)}"
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError)):
        return "address", "cannot be asked: its address is not one"
    if isinstance(error, httpx.ConnectError):
        return "network", f"is not reached: {_detail(error)}"
    if isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError)):
        return "disconnected", f"ended the connection without an answer ({type(error).__name__})"
    return "sender", f"could not be asked: {type(error).__name__}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes, including the members of exception groups."""
    waiting, seen = [error], set[int]()
    while waiting:
        each = waiting.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += getattr(each, "exceptions", ())
        waiting += [other for other in (each.__cause__, each.__context__) if other is not None]


def _detail(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:LONGEST_DETAIL]
