"""Accepting a panel as it is: what that would do, and doing it. For sudo admins of that panel."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from marzban_bridge.api.access.auth import CallerPart
from marzban_bridge.api.bodies import described, read_model
from marzban_bridge.api.context import Bridge, BridgePart
from marzban_bridge.api.errors import FOR_ADMINS, OF_BODIES, OF_CHANGES
from marzban_bridge.quota.acceptance import Acceptance
from marzban_bridge.quota.account import balance
from marzban_bridge.reconcile.trust.panel_rebase import PanelRebasePlan

router = APIRouter(prefix="/v1", tags=["operations"])

MAX_BODY_BYTES = 4096


class RebasedAccount(BaseModel):
    """What becomes of one account where the panel is accepted as it is."""

    username: str
    what: str
    quota_bytes: int | None
    external_bytes: int
    marzban_bytes_before: int
    marzban_bytes: int | None
    """Null where the panel has no such user."""
    published_limit_bytes: int | None
    status: str | None


class PanelRebaseAnswer(BaseModel):
    """Why the panel is in doubt, null where there is nothing to accept, and all its accounts."""

    doubt: str | None
    accounts: list[RebasedAccount]


class PanelRebaseRequest(BaseModel):
    """The typed confirmation of accepting a panel as it is."""

    confirm: Literal["rebase panel"]


@router.get("/rebase-panel", responses=FOR_ADMINS)
async def planned_rebase(bridge: BridgePart, caller: CallerPart) -> PanelRebaseAnswer:
    """Look at every user and say what accepting the panel as it is would do; changes nothing."""
    caller.require_sudo()
    return shown_plan(bridge, await bridge.panel_rebase.plan())


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
    return shown_plan(bridge, await bridge.panel_rebase.apply(actor=caller.admin.username))


def shown_plan(bridge: Bridge, plan: PanelRebasePlan) -> PanelRebaseAnswer:
    """Return what is shown of a plan, in the terminal too."""
    return PanelRebaseAnswer(
        doubt=plan.doubt, accounts=[_shown(bridge, each) for each in plan.accounts]
    )


def _shown(bridge: Bridge, accepted: Acceptance) -> RebasedAccount:
    before, after = accepted.before, accepted.after
    account = after or before
    total_bytes = bridge.store.usage.total_bytes(account.key)
    return RebasedAccount(
        username=bridge.store.placement.public_name(account.username),
        what=accepted.fate.value,
        quota_bytes=account.quota_bytes,
        external_bytes=balance(account, total_bytes=total_bytes).external_bytes,
        marzban_bytes_before=before.sighting.used_bytes,
        marzban_bytes=after.sighting.used_bytes if after else None,
        published_limit_bytes=after.sighting.data_limit_bytes if after else None,
        status=after.sighting.status.value if after else None,
    )
