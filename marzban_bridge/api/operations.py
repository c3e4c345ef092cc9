"""The `/v1` routes: who stands how, what happened, what would be done, and resets."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from pydantic import BaseModel

from marzban_bridge.api.access.auth import CallerPart
from marzban_bridge.api.admin import ResetAnswer, reset_usage
from marzban_bridge.api.bodies import described, read_model
from marzban_bridge.api.context import Bridge, BridgePart, BridgesPart
from marzban_bridge.api.errors import FOR_ADMINS, OF_BODIES, OF_CHANGES
from marzban_bridge.quota.account import Account, Balance, account_key, standing
from marzban_bridge.reset_everybody import first_failure, reset_everybody

router = APIRouter(prefix="/v1", tags=["operations"])

MAX_BODY_BYTES = 4096


class UserStanding(BaseModel):
    """How a user with external traffic stood in its current period at the last look.

    One that is held stands as it did before the ledger or the store lost something of it.
    """

    username: str
    admin: str | None
    status: str
    quota_bytes: int | None
    marzban_bytes: int
    external_bytes: int
    """What external traffic counts for."""
    external_raw_bytes: int | None
    """The external bytes themselves."""
    used_bytes: int
    used_ratio: float | None
    published_limit_bytes: int | None
    period_started_at: str
    is_disabled_by_bridge: bool
    is_held: bool


class OrphanName(BaseModel):
    """A name that is reported and that the panel does not know."""

    username: str
    external_bytes: int
    external_raw_bytes: int
    first_seen_at: str
    deleted_at: str | None
    """When its user was found deleted; null for a name that the panel never had."""


class Users(BaseModel):
    """A page of users, and (for sudo admins) the names the panel does not know."""

    users: list[UserStanding]
    next: str | None
    orphans: list[OrphanName]


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
    """Something a pass would do now."""

    username: str
    kind: str
    reason: str
    data_limit_bytes: int | None
    status: str | None


class ResetAll(BaseModel):
    """The typed confirmation of a reset of all users."""

    confirm: Literal["reset all users"]
    all_panels: bool = False
    """The users of the bridge's own admin on every panel; for sudo admins of the first panel."""


class ResetAllAnswer(BaseModel):
    """How many users with external traffic begin anew."""

    users: int


@router.get("/users", responses=FOR_ADMINS)
async def users(
    bridge: BridgePart,
    caller: CallerPart,
    after: Annotated[str, Query(max_length=255)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Users:
    """List users with external traffic by name: everybody's for a sudo admin, else one's own."""
    admin = None if caller.admin.is_sudo else caller.admin.username
    page = bridge.store.accounts.page(admin=admin, after=account_key(after), limit=limit)
    orphans = bridge.store.unknown_names.all() if caller.admin.is_sudo and not after else []
    return Users(
        users=[_standing(bridge, each) for each in page],
        next=page[-1].key if len(page) == limit else None,
        orphans=[
            OrphanName(
                username=each.username,
                external_bytes=each.total_bytes,
                external_raw_bytes=each.raw_bytes,
                first_seen_at=each.first_seen_at.isoformat(),
                deleted_at=each.gone_at.isoformat() if each.gone_at else None,
            )
            for each in orphans
        ],
    )


@router.post("/users/{username}/reset", responses=FOR_ADMINS | OF_CHANGES)
async def reset_user(
    username: str,
    bridge: BridgePart,
    caller: CallerPart,
    change_panel: bool = False,  # noqa: FBT001, FBT002 - a query parameter
) -> ResetAnswer:
    """Begin a user's period anew, panel and external; if the bridge only observes, when told to."""
    return await reset_usage(username, bridge, caller, kind="user", change_panel=change_panel)


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

    A bridge that only observes does so with `change_panel` alone.
    """
    caller.require_sudo()
    asked = await read_model(request, ResetAll, max_bytes=MAX_BODY_BYTES, what="a confirmation")
    if asked.all_panels:
        if bridge is not bridges.first:
            raise HTTPException(403, "all panels' users are reset by an admin of the first panel")
        results = await reset_everybody(
            bridges, actor=caller.admin.username, changes_panel=change_panel
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
    """Have the collector purge rows older than so many days; totals and quotas stay."""
    caller.require_sudo()
    return await bridge.actions.cleanup(days=days, actor=caller.admin.username)


@router.get("/events", responses=FOR_ADMINS)
async def events(
    bridge: BridgePart,
    caller: CallerPart,
    username: Annotated[str | None, Query(max_length=255)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[EventEntry]:
    """List what happened, newest first; other than sudo admins name one of their users."""
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
    """Look at every user and say what a pass would do first; changes nothing."""
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


def _standing(bridge: Bridge, account: Account) -> UserStanding:
    account = bridge.actions.shown(account)
    found = standing(account, bridge.store.usage.totals(account.key))
    return shown_standing(account, found, username=account.username)


def shown_standing(account: Account, found: Balance, *, username: str) -> UserStanding:
    """Return what is shown of an account, under a name."""
    quota_bytes = account.quota_bytes
    return UserStanding(
        username=username,
        admin=account.admin,
        status=account.sighting.status.value,
        quota_bytes=quota_bytes,
        marzban_bytes=found.panel_bytes,
        external_bytes=found.external_bytes,
        external_raw_bytes=found.external_raw_bytes,
        used_bytes=found.used_bytes,
        used_ratio=round(found.used_bytes / quota_bytes, 4) if quota_bytes else None,
        published_limit_bytes=account.sighting.data_limit_bytes,
        period_started_at=account.period_started_at.isoformat(),
        is_disabled_by_bridge=account.is_disabled_by_us,
        is_held=account.is_held,
    )
