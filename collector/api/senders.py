"""Who sends this request: a reporter with a key or a signature, or nobody yet."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from hmac import compare_digest
from typing import Annotated

from fastapi import Depends, Header, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import ClientDisconnect

from collector.api.context import Collector, CollectorPart
from collector.api.problems import RETRY_AFTER_SECONDS, ProblemError
from collector.bodies import BodyTooLargeError, UnreadableBodyError, inflate
from collector.body_room import Place
from collector.reporters import Reporter, is_signature_valid

KEY = HTTPBearer(auto_error=False, description="A reporter key", scheme_name="reporterKey")
ADMIN_KEY = HTTPBearer(auto_error=False, description="COLLECTOR_ADMIN_KEY", scheme_name="adminKey")

Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(KEY)]
AdminCredentials = Annotated[HTTPAuthorizationCredentials | None, Depends(ADMIN_KEY)]
SignerName = Annotated[
    str | None,
    Query(alias="reporter", max_length=64, description="Whose signature the request carries"),
]
HeaderId = Annotated[
    str | None, Header(min_length=1, max_length=255, description="Id of a report without its own")
]


@dataclass(frozen=True, slots=True)
class Claims:
    """What a request says of its sender and its reports' ids; nothing of it is verified."""

    credentials: HTTPAuthorizationCredentials | None
    signer: str | None
    header_id: str | None


def claims(
    credentials: Credentials,
    reporter: SignerName = None,
    webhook_id: HeaderId = None,
    idempotency_key: HeaderId = None,
) -> Claims:
    """Gather what a request claims; `webhook-id` goes before `Idempotency-Key`."""
    return Claims(credentials, reporter, webhook_id or idempotency_key)


LEAST_BYTES_PER_SECOND = 8192
"""A body that arrives more slowly than this is given up, after its first seconds."""


ClaimsPart = Annotated[Claims, Depends(claims)]


async def read_body(
    request: Request, limit_bytes: int, *, place: Place, read_seconds: float
) -> tuple[bytes, bytes]:
    """Read a body within bounds of size, time and room; return it as sent, and inflated."""
    body = await _read(request, limit_bytes, place, read_seconds)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding in {"identity", ""}:
        return body, body
    if encoding not in {"gzip", "x-gzip"}:
        raise ProblemError(415, f"content encoding {encoding[:40]!r} is not supported; send gzip")
    try:
        inflated = inflate(body, limit_bytes=limit_bytes)
    except BodyTooLargeError as error:
        raise ProblemError(413, str(error)) from error
    except UnreadableBodyError as error:
        raise ProblemError(400, str(error)) from error
    _take(place, len(inflated))
    return body, inflated


async def _read(request: Request, limit_bytes: int, place: Place, read_seconds: float) -> bytes:
    too_large = ProblemError(413, f"a body may have at most {limit_bytes} bytes")
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdecimal() and (len(length) > 15 or int(length) > limit_bytes):
        raise too_large
    sent = bytearray()
    now_seconds = asyncio.get_running_loop().time
    latest = now_seconds() + read_seconds
    try:
        async with asyncio.timeout_at(latest) as deadline:
            async for chunk in request.stream():
                _take(place, len(chunk))
                sent += chunk
                if len(sent) > limit_bytes:
                    raise too_large
                latest += len(chunk) / LEAST_BYTES_PER_SECOND
                latest = min(latest, now_seconds() + read_seconds)  # haste earns no rest
                deadline.reschedule(latest)
    except TimeoutError as error:
        raise ProblemError(408, "the body takes too long to arrive") from error
    except ClientDisconnect as error:  # nobody is there to be answered
        raise ProblemError(400, "the body ends too early") from error
    return bytes(sent)


def _take(place: Place, amount_bytes: int) -> None:
    if not place.take(amount_bytes):
        reason = "too many large requests at once"
        raise ProblemError(503, reason, retry_after_seconds=RETRY_AFTER_SECONDS)


async def find_key_holder(collector: Collector, claimed: Claims) -> Reporter | None:
    """Return whose key the request carries; None without one, 401 for a wrong one."""
    if claimed.credentials is None:
        return None
    reporter = (await collector.key_ring()).by_key(claimed.credentials.credentials)
    if reporter is None:
        raise ProblemError(401, "this reporter key is not valid (see `reporters list`)")
    return reporter


def is_signed(request: Request) -> bool:
    """Tell whether the request carries a signature, right or wrong."""
    return "webhook-signature" in request.headers


async def find_signer(
    collector: Collector, request: Request, body: bytes, claimed: Claims
) -> Reporter:
    """Return who signed the body as it was sent; 401 when nobody did."""
    if claimed.signer is None:
        raise ProblemError(401, "a signed request says whose signature it is: ?reporter=NAME")
    reporter = (await collector.key_ring()).by_name(claimed.signer)
    now_seconds = collector.now_millis() / 1000
    if reporter is None or not is_signature_valid(
        request.headers, body, key_hash=reporter.key_hash, now_seconds=now_seconds
    ):
        raise ProblemError(
            401, "the signature does not fit, or its timestamp is over 5 minutes off"
        )
    return reporter


def require_admin(collector: CollectorPart, credentials: AdminCredentials) -> None:
    """Answer unless the caller has the server's admin key."""
    if not is_admin(collector, credentials):
        raise ProblemError(401, "send Authorization: Bearer with the COLLECTOR_ADMIN_KEY")


def is_admin(collector: Collector, credentials: HTTPAuthorizationCredentials | None) -> bool:
    """Tell whether the caller has the server's admin key; 403 when the server has none."""
    admin_key = collector.settings.admin_key
    if not admin_key:
        raise ProblemError(403, "this collector has no COLLECTOR_ADMIN_KEY; set one and restart")
    if credentials is None:
        return False
    return compare_digest(credentials.credentials.encode(), admin_key.encode())
