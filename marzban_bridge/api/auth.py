"""Who is calling: a bearer token is whatever the panel says it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import httpx
from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from marzban_bridge.api.context import Bridge, BridgePart
from marzban_bridge.errors import PanelRefusedError
from marzban_bridge.panel import PanelAdmin

FORM_TYPE = "application/x-www-form-urlencoded"
MAX_FORM_BYTES = 16 * 1024

_BEARER = HTTPBearer(
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


async def authenticate(
    bridge: BridgePart,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
) -> Caller:
    """Ask the panel whose token it is; 401 when it is nobody's."""
    headers = {"www-authenticate": "Bearer"}
    if credentials is None:
        raise HTTPException(401, "send Authorization: Bearer with a Marzban admin token", headers)
    if not (credentials.credentials.isascii() and credentials.credentials.isprintable()):
        raise HTTPException(401, "this is no Marzban admin token", headers)
    try:
        admin = await bridge.panel.whoami(bearer=credentials.credentials)
    except PanelRefusedError as error:
        raise HTTPException(401, "the panel does not accept this admin token", headers) from error
    return Caller(admin=admin, bearer=credentials.credentials)


CallerPart = Annotated[Caller, Depends(authenticate)]


async def sign_in_through(
    bridge: Bridge, request: Request, body: bytes, *, content_type: str
) -> httpx.Response:
    """Pass a sign-in form through to the panel and return its answer.

    429 to an address whose sign-ins were refused too often.
    """
    address = request.client.host if request.client else ""
    now_seconds = bridge.clock().timestamp()
    if wait_seconds := bridge.sign_ins.take(address, now_seconds=now_seconds):
        headers = {"retry-after": str(math.ceil(wait_seconds))}
        raise HTTPException(429, "too many refused sign-ins from this address", headers)
    is_refused = False
    try:
        answer = await bridge.panel.sign_in_as(body, content_type=content_type)
        is_refused = answer.status_code in {401, 403}
    finally:
        if not is_refused:
            bridge.sign_ins.give_back(address, now_seconds=now_seconds)
    return answer
