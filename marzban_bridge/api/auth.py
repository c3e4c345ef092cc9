"""Who is calling: a bearer token is whatever the panel says it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from marzban_bridge.api.context import BridgePart
from marzban_bridge.errors import PanelRefusedError
from marzban_bridge.panel import PanelAdmin

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
