"""Routes that preview and carry out accepting a panel as it is. For sudo admins of that panel."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from marzban_bridge.api.answers import PanelRebaseAnswer, shown_plan
from marzban_bridge.api.bodies import described, read_model
from marzban_bridge.api.context import BridgePart, CallerPart
from marzban_bridge.api.errors import FOR_ADMINS, OF_BODIES, OF_CHANGES

router = APIRouter(prefix="/v1", tags=["operations"])

MAX_BODY_BYTES = 4096


class PanelRebaseRequest(BaseModel):
    """The typed confirmation of accepting a panel as it is."""

    confirm: Literal["rebase panel"]


@router.get("/rebase-panel", responses=FOR_ADMINS)
async def planned_rebase(bridge: BridgePart, caller: CallerPart) -> PanelRebaseAnswer:
    """Read every user and return what accepting the panel as it is would do; changes nothing."""
    caller.require_sudo()
    return shown_plan(bridge.store, await bridge.panel_rebase.plan())


@router.post(
    "/rebase-panel",
    responses=FOR_ADMINS | OF_BODIES | OF_CHANGES,
    openapi_extra=described(PanelRebaseRequest),
)
async def rebase_panel(
    request: Request, bridge: BridgePart, caller: CallerPart
) -> PanelRebaseAnswer:
    """Accept the panel as it is, and settle its users again."""
    caller.require_sudo()
    await read_model(request, PanelRebaseRequest, max_bytes=MAX_BODY_BYTES, what="a confirmation")
    return shown_plan(bridge.store, await bridge.panel_rebase.apply(actor=caller.admin.username))
