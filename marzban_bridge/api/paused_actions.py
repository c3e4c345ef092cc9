"""Routes for `rebase` and `release`, during which the loops of a running bridge pause.

Both concern the users of all panels, and are for sudo admins of the first one.
"""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from marzban_bridge.api.answers import RebaseAnswer, ReleaseAnswer, shown_balance
from marzban_bridge.api.bodies import described, read_model
from marzban_bridge.api.context import BridgesPart, CallerPart
from marzban_bridge.api.errors import FOR_ADMINS, OF_BODIES, OF_CHANGES
from marzban_bridge.bridge import RELEASED
from marzban_bridge.quota.balance import balance_with_raw
from marzban_bridge.tables import seen_totals

router = APIRouter(prefix="/v1", tags=["operations"])

MAX_BODY_BYTES = 4096


class RebaseRequest(BaseModel):
    """The typed confirmation of a rebase: accepting ledger and store as they are."""

    confirm: Literal["rebase"]
    restored: bool = False
    """Whether the store is a restored copy that was not made by `backup`."""


class ReleaseRequest(BaseModel):
    """The typed confirmation of a release: giving every user its quota back."""

    confirm: Literal["release"]


@router.post(
    "/rebase",
    responses=FOR_ADMINS | OF_BODIES | OF_CHANGES,
    openapi_extra=described(RebaseRequest),
)
async def rebase(request: Request, bridges: BridgesPart, caller: CallerPart) -> RebaseAnswer:
    """Accept the ledger, and a suspended store, as they are; the loops continue afterwards."""
    caller.require_sudo()
    asked = await read_model(
        request, RebaseRequest, max_bytes=MAX_BODY_BYTES, what="a confirmation"
    )
    moved = await bridges.rebase_beside_the_loops(
        actor=caller.admin.username, is_restored=asked.restored
    )
    return RebaseAnswer(
        users=[
            shown_balance(
                account,
                balance_with_raw(account, seen_totals(account)),
                username=bridge.store.placement.public_name(account.username),
            )
            for bridge, account in moved
        ]
    )


@router.post(
    "/release",
    responses=FOR_ADMINS | OF_BODIES | OF_CHANGES,
    openapi_extra=described(ReleaseRequest),
)
async def release(
    request: Request,
    bridges: BridgesPart,
    caller: CallerPart,
    change_panel: bool = False,  # noqa: FBT001, FBT002 - a query parameter
) -> ReleaseAnswer:
    """Give every user its quota and status back; then change no user until the bridge restarts.

    With BRIDGE_ENFORCEMENT=observe this needs `change_panel`.
    """
    caller.require_sudo()
    await read_model(request, ReleaseRequest, max_bytes=MAX_BODY_BYTES, what="a confirmation")
    usernames = await bridges.release_beside_the_loops(
        actor=caller.admin.username, changes_panel=change_panel
    )
    return ReleaseAnswer(usernames=usernames, state=RELEASED)
