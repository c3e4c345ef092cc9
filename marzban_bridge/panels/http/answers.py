"""What answers in the panel's place, and why nothing does: told from one answer or error; pure.

Marzban answers its API in JSON, its errors too. A page of HTML is a proxy's, a firewall's or
another program's, whatever its status: a 403 of that kind is no wrong password.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

MAX_SHOWN_LENGTH = 200
EXAMINED_BYTES = 4096
CHALLENGE_MARKS = (b"challenge-platform", b"just a moment", b"captcha", b"ddos-guard")
PLAIN_ON_TLS = b"plain http request was sent to https port"
_NO_PLACE = (
    "Name or service not known",
    "Temporary failure in name resolution",
    "No address associated with hostname",
    "nodename nor servname provided",
    "getaddrinfo failed",
)


def is_outage(status: int) -> bool:
    """Tell whether a status says that the panel, or what is before it, fails for all requests now.

    A 500 is not among them: Marzban answers it for a list with one broken user too.
    """
    return status == 429 or (status > 500 and status < 600)


def other_than_panel(
    status: int, headers: Mapping[str, str], body: bytes, *, url_setting: str
) -> str | None:
    """Say what answered if it was not Marzban, and what to do; None for what may be Marzban's."""
    beginning = body[:EXAMINED_BYTES].strip().lower()
    is_html = "html" in headers.get("content-type", "").lower() or beginning.startswith(
        (b"<!doctype", b"<html")
    )
    if 300 <= status < 400:
        place = _without_query(headers.get("location", ""))
        return f"a redirect to {place or 'nowhere'}: set {url_setting} to the address that answers"
    if status == 401 and headers.get("www-authenticate", "").lower().startswith("basic"):
        return (
            "a web server before the panel that wants a password of its own: let the bridge's "
            "address pass without"
        )
    if not is_html:
        return None
    if PLAIN_ON_TLS in beginning:
        return f"a server that expects TLS on this port: {url_setting} must begin with https://"
    is_challenge = headers.get("cf-mitigated", "").lower() == "challenge" or any(
        mark in beginning for mark in CHALLENGE_MARKS
    )
    if is_challenge or status in {401, 403}:
        return (
            "a page of a proxy or firewall before the panel, not the panel (this is no wrong "
            f"password): let the bridge's address pass to /api/, or have {url_setting} name the "
            "panel itself"
        )
    return (
        f"a web page, not Marzban's API: {url_setting} must be the panel's own address, without "
        "/dashboard or any other path"
    )


def _tls_fault(error: ssl.SSLError) -> str:
    reason = error.reason or str(error)
    return "it answers without TLS" if reason in _WITHOUT_TLS else reason.replace("_", " ").lower()


_WITHOUT_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"}
"""What OpenSSL calls the answer of a server that speaks plain HTTP."""


def no_answer(error: BaseException, *, url: str, url_setting: str) -> str:
    """Say why there is no answer, and what to do."""
    shown = f"{type(error).__name__} {error}".strip()[:MAX_SHOWN_LENGTH]
    for cause in _chain(error):
        text = str(cause)
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = cause.verify_message or text
            return (
                f"its certificate is not accepted ({reason}): use the name it is for, have it "
                "renewed, or name the authority that signed it in SSL_CERT_FILE"
            )
        if isinstance(cause, ssl.SSLError):
            return (
                f"it does not speak TLS as it should ({_tls_fault(cause)}): does {url_setting} "
                "begin with http:// or https:// as the panel does, and is the port right?"
            )
        if any(mark in text for mark in _NO_PLACE):
            return (
                f"its name cannot be resolved ({text}): see to the host in {url_setting}, and DNS"
            )
        if isinstance(cause, ConnectionRefusedError):
            return (
                "nothing listens there (connection refused): is the panel running, and is the "
                f"port in {url_setting} right?"
            )
    name = type(error).__name__
    if name == "ConnectTimeout":
        return f"no connection in time ({shown}): a firewall, or a machine that is off?"
    if name in {"RemoteProtocolError", "ReadError"} and urlsplit(url).scheme == "http":
        return f"{shown}; where the panel speaks TLS, {url_setting} must begin with https://"
    return shown


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came of."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [cause for cause in (each.__context__, each.__cause__) if cause is not None]
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions


def _without_query(location: str) -> str:
    """Return a redirect's target without what might be a secret in it, fit to be shown."""
    bare = location.partition("?")[0].partition("#")[0]
    return "".join(each if each.isprintable() else "?" for each in bare)[:MAX_SHOWN_LENGTH]
