"""The `/v1` routes: users, events, planned changes, resets and cleanup."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request
from pydantic import BaseModel

from marzban_bridge.api.answers import (
    ResetAll,
    ResetAllAnswer,
    ResetAnswer,
    UserBalance,
    reset_answer,
    shown_balance,
)
from marzban_bridge.api.bodies import described, read_model
from marzban_bridge.api.context import BridgePart, BridgesPart, CallerPart
from marzban_bridge.api.errors import FOR_ADMINS, OF_BODIES, OF_CHANGES
from marzban_bridge.bridge import Bridge, first_failure
from marzban_bridge.panels.names import account_key
from marzban_bridge.quota.account import Account
from marzban_bridge.quota.balance import balance_with_raw

router = APIRouter(prefix="/v1", tags=["operations"])

MAX_BODY_BYTES = 4096


class UnknownNameEntry(BaseModel):
    """A reported name that the panel has no user of."""

    username: str
    external_bytes: int
    external_raw_bytes: int
    first_seen_at: str
    deleted_at: str | None
    """When its user was found to be deleted; null if the panel never had such a user."""


class Users(BaseModel):
    """A page of users, and (for sudo admins) the unknown names."""

    users: list[UserBalance]
    next: str | None
    orphans: list[UnknownNameEntry]


class EventEntry(BaseModel):
    """One entry of the audit trail."""

    seq: int
    at: str
    username: str
    kind: str
    actor: str
    text: str
    before: str | None
    after: str | None


class PlannedChange(BaseModel):
    """A change that a pass would make now."""

    username: str
    kind: str
    reason: str
    data_limit_bytes: int | None
    status: str | None


@router.get("/users", responses=FOR_ADMINS)
async def users(
    bridge: BridgePart,
    caller: CallerPart,
    after: Annotated[str, Query(max_length=255)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Users:
    """List users with external traffic by name: all for a sudo admin, else the admin's own."""
    admin = None if caller.admin.is_sudo else caller.admin.username
    page = bridge.store.accounts.page(admin=admin, after=account_key(after), limit=limit)
    unknown_names = bridge.store.unknown_names.all() if caller.admin.is_sudo and not after else []
    return Users(
        users=[_balance(bridge, each) for each in page],
        next=page[-1].key if len(page) == limit else None,
        orphans=[
            UnknownNameEntry(
                username=each.username,
                external_bytes=each.total_bytes,
                external_raw_bytes=each.raw_bytes,
                first_seen_at=each.first_seen_at.isoformat(),
                deleted_at=each.gone_at.isoformat() if each.gone_at else None,
            )
            for each in unknown_names
        ],
    )


@router.post("/users/{username}/reset", responses=FOR_ADMINS | OF_CHANGES)
async def reset_user(
    username: str,
    bridge: BridgePart,
    caller: CallerPart,
    change_panel: bool = False,  # noqa: FBT001, FBT002 - a query parameter
) -> ResetAnswer:
    """Reset a user, in the panel and externally; in observe mode only with `change_panel`."""
    user = await bridge.panel.get_user_as(username, bearer=caller.bearer)
    after = await bridge.actions.reset_user(
        user.username, actor=caller.admin.username, changes_panel=change_panel
    )
    return reset_answer(after)


@router.post(
    "/reset-all",
    responses=FOR_ADMINS | OF_BODIES | OF_CHANGES,
    openapi_extra=described(ResetAll),
)
async def reset_all(
    request: Request,
    bridge: BridgePart,
    bridges: BridgesPart,
    caller: CallerPart,
    change_panel: bool = False,  # noqa: FBT001, FBT002 - a query parameter
) -> ResetAllAnswer:
    """Reset all users of the caller through the panel, which restarts xray on every node.

    With BRIDGE_ENFORCEMENT=observe this needs `change_panel`.
    """
    caller.require_sudo()
    asked = await read_model(request, ResetAll, max_bytes=MAX_BODY_BYTES, what="a confirmation")
    if asked.all_panels:
        if bridge is not bridges.first:
            raise HTTPException(403, "all panels' users can be reset by admins of the first panel")
        results = await bridges.reset_everybody(
            actor=caller.admin.username, changes_panel=change_panel
        )
        if failure := first_failure(results):
            raise failure
        return ResetAllAnswer(users=sum(each for each in results.values() if isinstance(each, int)))
    count = await bridge.actions.reset_all(
        bearer=caller.bearer, caller=caller.admin, changes_panel=change_panel
    )
    return ResetAllAnswer(users=count)


@router.post("/cleanup", responses=FOR_ADMINS)
async def cleanup(
    bridge: BridgePart, caller: CallerPart, days: Annotated[int, Query(ge=1, le=36500)]
) -> dict[str, object]:
    """Have the collector delete rows older than `days`; totals and quotas stay."""
    caller.require_sudo()
    return await bridge.actions.cleanup(days=days, actor=caller.admin.username)


@router.get("/events", responses=FOR_ADMINS)
async def events(
    bridge: BridgePart,
    caller: CallerPart,
    username: Annotated[str | None, Query(max_length=255)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[EventEntry]:
    """List events, newest first; an admin who is not sudo has to name one of its users."""
    if not caller.admin.is_sudo:
        if username is None:
            raise HTTPException(403, "name one of your users: ?username=")
        await bridge.panel.get_user_as(username, bearer=caller.bearer)
    return [
        EventEntry(
            seq=each.seq,
            at=each.at.isoformat(),
            username=each.username,
            kind=each.event.kind,
            actor=each.event.actor,
            text=each.event.text,
            before=each.event.before,
            after=each.event.after,
        )
        for each in bridge.store.events.newest(username=username, limit=limit)
    ]


@router.get("/plan", responses=FOR_ADMINS)
async def planned(bridge: BridgePart, caller: CallerPart) -> list[PlannedChange]:
    """Evaluate every user and list the first change a pass would make of each; changes nothing."""
    caller.require_sudo()
    return [
        PlannedChange(
            username=change.username,
            kind=change.kind.value,
            reason=change.reason,
            data_limit_bytes=change.update.data_limit_bytes if change.update else None,
            status=(change.update.status.value if change.update and change.update.status else None),
        )
        async for change in (
            preview.change async for preview in bridge.reconciler.previews() if preview.change
        )
    ]


def _balance(bridge: Bridge, account: Account) -> UserBalance:
    account = bridge.actions.shown(account)
    found = balance_with_raw(account, bridge.store.usage.totals(account.key))
    return shown_balance(account, found, username=account.username)
