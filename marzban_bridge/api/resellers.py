"""The `/v1/resellers` routes: quotas of admins for all of their users together."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field

from marzban_bridge.api.bodies import described, read_model
from marzban_bridge.api.context import BridgePart, CallerPart
from marzban_bridge.api.errors import FOR_ADMINS, OF_BODIES, OF_CHANGES
from marzban_bridge.panels.names import scoped
from marzban_bridge.quota.resellers.reseller import (
    MAX_QUOTA_BYTES,
    Reseller,
    ResellerChange,
    ResellerReset,
)

router = APIRouter(prefix="/v1", tags=["operations"])

MAX_BODY_BYTES = 4096
AdminName = Annotated[str, Path(max_length=255)]


class ResellerEntry(BaseModel):
    """An admin's quota for all of its users together, and what they used of it."""

    reseller: str
    quota_bytes: int
    used_bytes: int
    """Traffic of the period: on the panel's nodes, and billed external bytes."""
    used_ratio: float
    reset: str
    period_started_at: str
    is_enforced: bool
    is_cut_off: bool


class ResellerQuota(BaseModel):
    """The values to set of an admin's quota; those left out stay as they are."""

    quota_bytes: int | None = Field(default=None, gt=0, le=MAX_QUOTA_BYTES)
    reset: Literal["never", "day", "week", "month", "year"] | None = None
    is_enforced: bool | None = None
    used_bytes: int | None = Field(default=None, ge=0, le=MAX_QUOTA_BYTES)


def shown_reseller(reseller: Reseller, *, panel: str) -> ResellerEntry:
    """Build the entry of a reseller, under its public name."""
    return ResellerEntry(
        reseller=scoped(panel, reseller.admin),
        quota_bytes=reseller.quota_bytes,
        used_bytes=reseller.used_bytes,
        used_ratio=round(reseller.used_ratio, 4),
        reset=reseller.reset.value,
        period_started_at=reseller.period_started_at.isoformat(),
        is_enforced=reseller.is_enforced,
        is_cut_off=reseller.is_cut_off,
    )


@router.get("/resellers", responses=FOR_ADMINS)
async def resellers(bridge: BridgePart, caller: CallerPart) -> list[ResellerEntry]:
    """List admins that have a quota: all for a sudo admin, else the caller alone."""
    return [
        shown_reseller(each, panel=bridge.store.panel)
        for each in bridge.store.resellers.all()
        if caller.admin.is_sudo or each.admin == caller.admin.username
    ]


@router.put(
    "/resellers/{admin}",
    responses=FOR_ADMINS | OF_BODIES | OF_CHANGES,
    openapi_extra=described(ResellerQuota),
)
async def set_quota(
    admin: AdminName, request: Request, bridge: BridgePart, caller: CallerPart
) -> ResellerEntry:
    """Set an admin's quota, or the values of it that are given. A new one is not enforced."""
    caller.require_sudo()
    asked = await read_model(request, ResellerQuota, max_bytes=MAX_BODY_BYTES, what="a quota")
    change = ResellerChange(
        quota_bytes=asked.quota_bytes,
        reset=ResellerReset(asked.reset) if asked.reset else None,
        is_enforced=asked.is_enforced,
        used_bytes=asked.used_bytes,
    )
    reseller = await bridge.resellers.set(admin, change, actor=caller.admin.username)
    bridge.reconciler.begin_pass()
    return shown_reseller(reseller, panel=bridge.store.panel)


@router.delete("/resellers/{admin}", responses=FOR_ADMINS | OF_CHANGES)
async def take_quota_away(
    admin: AdminName, bridge: BridgePart, caller: CallerPart
) -> ResellerEntry:
    """Remove an admin's quota, and return it; users that were cut off are enabled again."""
    caller.require_sudo()
    reseller = bridge.resellers.find(admin)
    bridge.resellers.unset(admin, actor=caller.admin.username)
    return shown_reseller(reseller, panel=bridge.store.panel)


@router.post("/resellers/{admin}/reset", responses=FOR_ADMINS | OF_CHANGES)
async def reset_quota(admin: AdminName, bridge: BridgePart, caller: CallerPart) -> ResellerEntry:
    """Begin a new period of an admin's quota; its users' own quotas and traffic stay."""
    caller.require_sudo()
    reseller = bridge.resellers.reset(admin, actor=caller.admin.username)
    return shown_reseller(reseller, panel=bridge.store.panel)
