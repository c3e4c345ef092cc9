"""Authenticates the sender of a request by key or signature, and reads its body within bounds."""

from __future__ import annotations

from collections.abc import Sequence
from hmac import compare_digest
from typing import Annotated, NamedTuple
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.types import Scope

from collector.api.dependencies import CollectorPart
from collector.api.problems import RETRY_AFTER_SECONDS, ProblemError, documented, refused_request
from collector.parts import Collector
from collector.reports.contacts import Reason
from collector.reports.decode import (
    BYTE_ORDER_MARK,
    BodyTooLargeError,
    UnreadableBodyError,
    inflate,
)
from collector.reports.reporters import Reporter, is_signature_valid, is_timely
from collector.runtime.http import body as http_body
from collector.runtime.http.body import BodyCutOffError, BodyTooLongError, BodyTooSlowError
from collector.runtime.http.body_memory import Reservation

KEY = HTTPBearer(auto_error=False, description="A reporter key", scheme_name="reporterKey")
ADMIN_KEY = HTTPBearer(auto_error=False, description="COLLECTOR_ADMIN_KEY", scheme_name="adminKey")

MAX_ID_LENGTH = 255
MAX_NAME_LENGTH = 64
_YES, _NO = frozenset({"1", "true", "yes"}), frozenset({"0", "false", "no"})

Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(KEY)]
AdminCredentials = Annotated[HTTPAuthorizationCredentials | None, Depends(ADMIN_KEY)]
SignerName = Annotated[
    str | None,
    Query(
        alias="reporter",
        max_length=MAX_NAME_LENGTH,
        description="Whose signature the request carries",
    ),
]
Strict = Annotated[
    bool, Query(description="Refuse reports that have a field which is not one of a report")
]
HeaderId = Annotated[
    str | None,
    Header(min_length=1, max_length=MAX_ID_LENGTH, description="Id of a report without its own"),
]


class Claims(NamedTuple):
    """What a request's headers claim about its sender and ids; nothing of it is verified yet."""

    key: str | None
    signer: str | None
    header_id: str | None
    is_strict: bool
    """Whether reports with unknown fields are to be refused (`?strict=1`)."""
    is_signed: bool
    """Whether it has a signature, valid or not."""
    body_length: bytes
    body_encoding: bytes


def declare_claims(
    credentials: Credentials,
    reporter: SignerName = None,
    strict: Strict = False,  # noqa: FBT002 - as FastAPI declares a query parameter
    webhook_id: HeaderId = None,
    idempotency_key: HeaderId = None,
) -> Claims:
    """Stand in the OpenAPI document for what `read_claims` reads."""
    raise NotImplementedError  # fast routes never resolve it


ClaimsPart = Annotated[Claims, Depends(declare_claims)]
"""For the functions of fast routes alone."""


def declare_message(webhook_id: HeaderId = None, idempotency_key: HeaderId = None) -> Claims:
    """Stand in the OpenAPI document for a sender whose key is in the path."""
    raise NotImplementedError  # fast routes never resolve it


MessagePart = Annotated[Claims, Depends(declare_message)]
"""For the functions of fast routes alone."""


def read_claims(scope: Scope) -> Claims:
    """Read a request's claims from its headers; `webhook-id` is preferred to `Idempotency-Key`.

    Raises ProblemError 422 for a value that is too long.
    """
    headers = dict(reversed(scope["headers"]))  # of a repeated header, the first counts
    faults: dict[str, str] = {}
    ids = []
    for name in (b"webhook-id", b"idempotency-key"):
        if (given := headers.get(name)) is None:
            continue
        if 0 < len(given) <= MAX_ID_LENGTH:
            ids.append(given.decode("latin-1"))
        else:
            faults[name.decode()] = f"must have 1 to {MAX_ID_LENGTH} characters"
    signer = None
    is_strict = False
    if query := scope["query_string"]:
        asked = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
        signer = asked.get("reporter")
        strict = asked.get("strict", "0").lower()
        is_strict = strict in _YES
        if strict not in _YES | _NO:
            faults["strict"] = "must be 1 or 0"
        if signer is not None and len(signer) > MAX_NAME_LENGTH:
            faults["reporter"] = f"must have at most {MAX_NAME_LENGTH} characters"
    if faults:
        raise refused_request(faults)
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    is_bearer = scheme.lower() == b"bearer"
    return Claims(
        key=key.strip().decode("latin-1") or None if is_bearer else None,
        signer=signer,
        header_id=ids[0] if ids else None,
        is_strict=is_strict,
        is_signed=b"webhook-signature" in headers,
        body_length=headers.get(b"content-length", b""),
        body_encoding=headers.get(b"content-encoding", b"").strip().lower(),
    )


async def read_body(
    request: Request,
    claimed: Claims,
    limit_bytes: int,
    *,
    reservation: Reservation,
    read_seconds: float,
) -> bytes:
    """Read a body without decoding it, within bounds of size, time and memory.

    Raises ProblemError: 408 too slow, 413 too large, 415 unknown encoding, 503 too little memory.
    """
    length = claimed.body_length
    if length.isdigit() and (len(length) > 15 or int(length) > limit_bytes):
        raise _too_large(limit_bytes)
    if claimed.body_encoding not in {b"identity", b"", b"gzip", b"x-gzip"}:
        named = claimed.body_encoding[:40].decode("latin-1")
        raise ProblemError(415, f"content encoding {named!r} is not supported; send gzip")
    try:
        return await http_body.read_body(
            request.receive,
            limit_bytes=limit_bytes,
            read_seconds=read_seconds,
            reserve=lambda amount_bytes: _reserve(reservation, amount_bytes),
        )
    except BodyTooLongError as error:
        raise _too_large(limit_bytes) from error
    except BodyTooSlowError as error:
        raise ProblemError(408, "the body takes too long to arrive") from error
    except BodyCutOffError as error:
        raise ProblemError(400, "the body is shorter than its Content-Length") from error


def unpack(body: bytes, claimed: Claims, limit_bytes: int, *, reservation: Reservation) -> bytes:
    """Decompress a body, within the same bounds of size and memory.

    A byte order mark at its beginning is taken away.
    """
    if claimed.body_encoding in {b"identity", b""}:
        return body.removeprefix(BYTE_ORDER_MARK)
    try:
        inflated = inflate(body, limit_bytes=limit_bytes)
    except BodyTooLargeError as error:
        raise ProblemError(413, str(error)) from error
    except UnreadableBodyError as error:
        raise ProblemError(400, str(error)) from error
    _reserve(reservation, len(inflated))
    return inflated.removeprefix(BYTE_ORDER_MARK)


def _too_large(limit_bytes: int) -> ProblemError:
    return ProblemError(413, f"a body may have at most {limit_bytes} bytes")


def _reserve(reservation: Reservation, amount_bytes: int) -> None:
    if not reservation.add(amount_bytes):
        reason = "too many large requests at the same time"
        raise ProblemError(503, reason, retry_after_seconds=RETRY_AFTER_SECONDS)


async def find_key_holder(collector: Collector, claimed: Claims) -> Reporter | None:
    """Return the reporter of the request's key; None without a key, 401 for an invalid one."""
    if claimed.key is None:
        return None
    ring = await collector.rules.key_ring()
    reporter = ring.by_key(claimed.key)
    if reporter is None:
        once_of = ring.once_of(claimed.key)
        raise ProblemError(
            401,
            "this reporter key is not valid (see `reporters list`)",
            refused_for=Reason.REVOKED_KEY if once_of else Reason.UNKNOWN_KEY,
            once_of=once_of or "",
        )
    collector.contact_log.note_contact(reporter.name, at_millis=collector.now_millis())
    return reporter


async def find_signer(collector: Collector, request: Request, claimed: Claims) -> Reporter | None:
    """Return the reporter whose signature the request claims to have; it is not verified yet.

    None for a request without a signature; 401 if the headers already make it invalid.
    """
    if not claimed.is_signed:
        return None
    if claimed.signer is None:
        raise ProblemError(
            401,
            "a signed request must name the signer: ?reporter=NAME",
            refused_for=Reason.SIGNATURE,
        )
    signer = (await collector.rules.key_ring()).by_name(claimed.signer)
    if signer is None or not is_timely(request.headers, now_seconds=_now_seconds(collector)):
        raise _unfit_signature()
    return signer


def verify_signature(
    collector: Collector, request: Request, body: bytes, *, signer: Reporter
) -> None:
    """Raise ProblemError 401 unless the signer signed the body as it was sent."""
    now_seconds = _now_seconds(collector)
    if not any(
        is_signature_valid(request.headers, body, key_hash=each, now_seconds=now_seconds)
        for each in signer.key_hashes(now_millis=collector.now_millis())
    ):
        raise _unfit_signature()
    collector.contact_log.note_contact(signer.name, at_millis=collector.now_millis())


def _now_seconds(collector: Collector) -> float:
    return collector.now_millis() / 1000


def _unfit_signature() -> ProblemError:
    return ProblemError(
        401,
        "the signature is not valid, or its timestamp is more than 5 minutes off",
        refused_for=Reason.SIGNATURE,
    )


def address_of(request: Request) -> str:
    """Return the client's address; behind a trusted proxy, the one that the proxy names."""
    return request.client.host if request.client else ""


async def require_admin(collector: CollectorPart, credentials: AdminCredentials) -> None:
    """Raise ProblemError 401 or 403 unless the caller has the admin key."""
    if not is_admin(collector, credentials):
        raise ProblemError(401, "send Authorization: Bearer with the COLLECTOR_ADMIN_KEY")


def is_admin(collector: Collector, credentials: HTTPAuthorizationCredentials | None) -> bool:
    """Tell whether the caller has the admin key; ProblemError 403 if none is configured."""
    admin_key = collector.settings.admin_key
    if not admin_key:
        raise ProblemError(403, "this collector has no COLLECTOR_ADMIN_KEY; set one and restart")
    if credentials is None:
        return False
    return compare_digest(credentials.credentials.encode(), admin_key.encode())


def admin_router(prefix: str, *, tag: str, statuses: Sequence[int]) -> APIRouter:
    """Return a router whose routes need the admin key, with the errors they may answer with."""
    return APIRouter(
        prefix=prefix,
        tags=[tag],
        dependencies=[Depends(require_admin)],
        responses=documented(401, 403, *statuses),
    )
