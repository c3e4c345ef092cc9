"""The admin API under the paths and field names that panels' admins already use.

`/api/admin/usage/{username}` is about a user, or about an admin where no user has that name; `kind`
decides when both exist.
"""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import BaseModel

from marzban_bridge.api.access.auth import FORM_TYPE, MAX_FORM_BYTES, Caller
from marzban_bridge.api.answers import ResetAnswer, reset_answer
from marzban_bridge.api.bodies import read_body
from marzban_bridge.api.context import BridgePart, BridgesPart, CallerPart, sign_in_through
from marzban_bridge.api.errors import FOR_ADMINS, OF_BODIES, OF_CHANGES, Problem
from marzban_bridge.bridge import Bridge
from marzban_bridge.errors import BridgeError, PanelError, UserNotFoundError
from marzban_bridge.feed.client import CollectorFeed
from marzban_bridge.quota.account import GIB, Account
from marzban_bridge.reconcile.actions import AdminUsage, UserUsage

router = APIRouter(prefix="/api/admin", tags=["admin"])

Kind = Literal["user", "admin"]


class ServerUsage(BaseModel):
    """All external traffic of a user on one server, across periods."""

    server: str
    port: int
    protocol: str
    upload_bytes: int
    download_bytes: int
    billed_bytes: int | None = None
    """Billed bytes of both directions; null from a collector version without ratios."""
    ratio: float | None = None
    """The ratio by which new bytes on this server are billed."""
    connections: int
    last_used_at: str | None


class DetailedUsage(BaseModel):
    """Usage by source (panel or external); `_gb` fields are GiB rounded to three places."""

    username: str
    kind: Kind
    marzban_usage_bytes: int
    marzban_usage_gb: float
    external_usage_bytes: int
    external_usage_gb: float
    external_raw_usage_bytes: int | None = None
    """External bytes as reported, before ratios; null for an admin."""
    external_raw_usage_gb: float | None = None
    total_usage_bytes: int
    traffic_limit_bytes: int | None
    traffic_limit_gb: float | None
    limit_check: bool | None
    percentage_used: float | None
    users: int | None = None
    """For an admin: the number of users with external traffic."""
    status: str | None = None
    admin: str | None = None
    published_limit_bytes: int | None = None
    """The data limit that the panel shows and enforces."""
    period_started_at: str | None = None
    is_disabled_by_bridge: bool | None = None
    is_held: bool | None = None
    servers: list[ServerUsage] | None = None
    """Usage by server; null for an admin, and while the collector does not answer."""


class DetailedServers(BaseModel):
    """The part of the collector's statistics of one user that the bridge reads."""

    servers: list[ServerUsage]


@router.post(
    "/token",
    responses={
        400: {"model": Problem, "description": "The request cannot be read"},
        401: {"description": "The panel's own answer: it does not accept these credentials"},
        **OF_BODIES,
        422: {"description": "The panel's own answer: it misses a field"},
        429: {"model": Problem, "description": "Too many wrong passwords from one address"},
        502: FOR_ADMINS[502],
        503: FOR_ADMINS[503],
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/x-www-form-urlencoded": {
                    "schema": {
                        "type": "object",
                        "required": ["username", "password"],
                        "properties": {
                            "username": {"type": "string"},
                            "password": {"type": "string", "format": "password"},
                        },
                    }
                }
            },
        }
    },
)
async def sign_in(request: Request, bridge: BridgePart) -> Response:
    """Forward a sign-in to the panel and return its answer.

    An address may have ten sign-ins refused, and after that one every six seconds.
    """
    body = await read_body(request, max_bytes=MAX_FORM_BYTES, what="a sign-in form")
    content_type = request.headers.get("content-type", FORM_TYPE)
    if not (content_type.isascii() and content_type.isprintable()):
        raise HTTPException(400, f"content-type must be {FORM_TYPE}")
    answer = await sign_in_through(bridge, request, body, content_type=content_type)
    if not answer.is_success and not answer.is_refusal:
        raise PanelError(f"the panel answers {answer.status} to a sign-in")
    media_type = answer.content_type or "application/json"
    if not (media_type.isascii() and media_type.isprintable()):
        media_type = "application/octet-stream"
    return Response(answer.body, answer.status, media_type=media_type)


@router.get("/usage/{username}", responses=FOR_ADMINS)
async def usage(
    username: str, bridge: BridgePart, caller: CallerPart, kind: Kind | None = None
) -> int:
    """Return all bytes used in the current period: the panel's own plus external."""
    found = await _find(bridge, caller, username, kind)
    return found.balance.used_bytes if isinstance(found, UserUsage) else found.used_bytes


@router.get("/usage/{username}/detailed", responses=FOR_ADMINS)
async def detailed_usage(
    username: str,
    bridge: BridgePart,
    bridges: BridgesPart,
    caller: CallerPart,
    kind: Kind | None = None,
) -> DetailedUsage:
    """Return usage by source, the quota, and the published limit."""
    found = await _find(bridge, caller, username, kind)
    if isinstance(found, AdminUsage):
        return _detail_admin(found)
    return _detail_user(found, await _servers(bridge, bridges.feed, found))


@router.post("/usage/reset/{username}", responses=FOR_ADMINS | OF_CHANGES)
async def reset_usage(
    username: str,
    bridge: BridgePart,
    caller: CallerPart,
    kind: Kind | None = None,
    change_panel: bool = False,  # noqa: FBT001, FBT002 - a query parameter
) -> ResetAnswer:
    """Reset a user, in the panel and externally; or an admin's usage, without resetting its users.

    With BRIDGE_ENFORCEMENT=observe this needs `change_panel`.
    """
    found = await _find(bridge, caller, username, kind)
    actor = caller.admin.username
    if isinstance(found, AdminUsage):
        name = found.admin.username
        users = await bridge.actions.reset_admin(
            name, bearer=caller.bearer, actor=actor, changes_panel=change_panel
        )
        return ResetAnswer(username=name, kind="admin", total_usage_bytes=0, users=users)
    after = await bridge.actions.reset_user(
        found.user.username, actor=actor, changes_panel=change_panel
    )
    return reset_answer(after)


async def _find(
    bridge: Bridge, caller: Caller, username: str, kind: Kind | None
) -> UserUsage | AdminUsage:
    """Find the user, else the admin; the panel decides whom the caller may read."""
    if kind != "admin":
        try:
            user = await bridge.panel.get_user_as(username, bearer=caller.bearer)
            return bridge.actions.user_usage(user)
        except UserNotFoundError:
            if kind == "user":
                raise
    if username == caller.admin.username:
        return bridge.actions.admin_usage(caller.admin)
    if not caller.admin.is_sudo:
        raise HTTPException(404, f"there is no user {username!r} of yours")
    for admin in await bridge.panel.admins(bearer=caller.bearer):
        if admin.username == username:
            return bridge.actions.admin_usage(admin)
    raise HTTPException(404, f"the panel has neither a user nor an admin {username!r}")


async def _servers(
    bridge: Bridge, feed: CollectorFeed, usage: UserUsage
) -> list[ServerUsage] | None:
    """Ask the collector for usage by server; None where it fails, since this part is optional."""
    if usage.account is None:
        return []
    try:
        data = await feed.usage(_reported_name(bridge, usage.account))
        return DetailedServers.model_validate(data).servers
    except (BridgeError, ValueError):  # a name that is also a path of the collector
        return None


def _reported_name(bridge: Bridge, account: Account) -> str:
    """Return the name under which the user was last reported."""
    return next(iter(bridge.store.usage.reported_names(account.key)), account.username)


def _detail_user(found: UserUsage, servers: list[ServerUsage] | None) -> DetailedUsage:
    balance, account = found.balance, found.account
    raw_bytes = balance.external_raw_bytes
    quota_bytes = balance.quota_bytes
    return DetailedUsage(
        username=found.user.username,
        kind="user",
        marzban_usage_bytes=balance.panel_bytes,
        marzban_usage_gb=_gib(balance.panel_bytes),
        external_usage_bytes=balance.external_bytes,
        external_usage_gb=_gib(balance.external_bytes),
        external_raw_usage_bytes=raw_bytes,
        external_raw_usage_gb=None if raw_bytes is None else _gib(raw_bytes),
        total_usage_bytes=balance.used_bytes,
        traffic_limit_bytes=quota_bytes,
        traffic_limit_gb=None if quota_bytes is None else _gib(quota_bytes),
        limit_check=not balance.is_exhausted,
        percentage_used=round(100 * balance.used_bytes / quota_bytes, 2) if quota_bytes else None,
        status=found.user.status.value,
        admin=found.user.admin,
        published_limit_bytes=found.user.data_limit_bytes,
        period_started_at=account.period_started_at.isoformat() if account else None,
        is_disabled_by_bridge=bool(account and account.is_disabled_by_us),
        is_held=bool(account and account.is_held),
        servers=servers,
    )


def _detail_admin(found: AdminUsage) -> DetailedUsage:
    return DetailedUsage(
        username=found.admin.username,
        kind="admin",
        marzban_usage_bytes=found.admin.used_bytes,
        marzban_usage_gb=_gib(found.admin.used_bytes),
        external_usage_bytes=found.external_bytes,
        external_usage_gb=_gib(found.external_bytes),
        total_usage_bytes=found.used_bytes,
        traffic_limit_bytes=None,
        traffic_limit_gb=None,
        limit_check=None,
        percentage_used=None,
        users=found.users,
    )


def _gib(amount_bytes: int) -> float:
    return round(amount_bytes / GIB, 3)
