"""Authenticates callers: the panel decides which admin a bearer token belongs to."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fastapi import HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from marzban_bridge.api.access.callers import Callers
from marzban_bridge.errors import PanelRefusedError
from marzban_bridge.panels.port import Panel
from marzban_bridge.panels.users import PanelAdmin, SignInAnswer

FORM_TYPE = "application/x-www-form-urlencoded"
MAX_FORM_BYTES = 16 * 1024
MAX_BEARER_LENGTH = 4096

BEARER = HTTPBearer(
    auto_error=False, description="A Marzban admin token, as from POST /api/admin/token"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """An admin of the panel and the token that proves it."""

    admin: PanelAdmin
    bearer: str

    def require_sudo(self) -> None:
        """Answer 403 unless the caller is a sudo admin."""
        if not self.admin.is_sudo:
            raise HTTPException(403, "only a sudo admin may do that")


async def caller_with(
    credentials: HTTPAuthorizationCredentials | None,
    *,
    panel: Panel,
    name: str,
    callers: Callers,
    address: str,
    now_seconds: float,
) -> Caller:
    """Ask the panel called `name` which admin a token belongs to.

    401 for a token that it does not accept; 429 after many such tokens. A token that the panel
    accepted before is exempt from that limit. `address` is the request's origin.
    """
    headers = {"www-authenticate": "Bearer"}
    if credentials is None:
        raise HTTPException(401, "send Authorization: Bearer with a Marzban admin token", headers)
    bearer = credentials.credentials
    if len(bearer) > MAX_BEARER_LENGTH or not (bearer.isascii() and bearer.isprintable()):
        raise HTTPException(401, "this is no Marzban admin token", headers)
    refusal = HTTPException(401, "the panel does not accept this admin token", headers)
    bearers = callers.bearers
    if bearers.is_refused(name, bearer, now_seconds=now_seconds):
        raise refusal
    wait_seconds = bearers.take(name, bearer, address=address, now_seconds=now_seconds)
    if wait_seconds:
        raise HTTPException(
            429,
            "too many admin tokens that the panel does not accept; sign in, or try again later",
            {"retry-after": str(math.ceil(wait_seconds))},
        )
    try:
        admin = await panel.whoami(bearer=bearer)
    except PanelRefusedError as error:
        bearers.note_refused(name, bearer, now_seconds=now_seconds)
        raise refusal from error
    except BaseException:
        bearers.note_unanswered(name, bearer, address=address, now_seconds=now_seconds)
        raise
    bearers.note_accepted(name, bearer, address=address, now_seconds=now_seconds)
    return Caller(admin=admin, bearer=bearer)


def address_of(request: Request) -> str:
    """Return the address a request comes from, as trusted proxies state it."""
    return request.client.host if request.client else ""


async def signed_in_with(
    form: bytes,
    *,
    content_type: str,
    panel: Panel,
    name: str,
    callers: Callers,
    address: str,
    now_seconds: float,
) -> SignInAnswer:
    """Forward a sign-in form to the panel called `name` and return its answer.

    429 for an address with too many refused sign-ins.
    """
    if wait_seconds := callers.sign_ins.take(address, now_seconds=now_seconds):
        headers = {"retry-after": str(math.ceil(wait_seconds))}
        raise HTTPException(429, "too many refused sign-ins from this address", headers)
    is_refused = False
    try:
        answer = await panel.sign_in_as(form, content_type=content_type)
        is_refused = answer.status in {401, 403}
    finally:
        if not is_refused:
            callers.sign_ins.give_back(address, now_seconds=now_seconds)
    if answer.token:
        callers.bearers.introduce(name, answer.token)
    return answer
