"""What several routes, and the command line, read and answer: bodies, and how they are made."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from marzban_bridge.quota.acceptance import Acceptance
from marzban_bridge.quota.account import Account
from marzban_bridge.quota.balance import Balance, balance
from marzban_bridge.reconcile.actions import UserUsage
from marzban_bridge.reconcile.trust.panel_rebase import PanelRebasePlan
from marzban_bridge.store.store import Store

SERVICE = "marzban-bridge"
"""By this a command line knows that it is a bridge it is about to sign in to."""
REBASE_PHRASE = "rebase"
RELEASE_PHRASE = "release"
"""Typed by whoever asks for what concerns everybody, so that no slip of the hand does it."""


class ResetAnswer(BaseModel):
    """What a reset came to."""

    username: str
    kind: Literal["user", "admin"]
    total_usage_bytes: int
    users: int


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


class ResetAll(BaseModel):
    """The typed confirmation of a reset of all users."""

    confirm: Literal["reset all users"]
    all_panels: bool = False
    """The users of the bridge's own admin on every panel; for sudo admins of the first panel."""


class ResetAllAnswer(BaseModel):
    """How many users with external traffic begin anew."""

    users: int


class RebaseAnswer(BaseModel):
    """The users whose books moved; what is left to them is as before."""

    users: list[UserStanding]


class ReleaseAnswer(BaseModel):
    """The users that were written to, and what the bridge does until it is restarted."""

    usernames: list[str]
    state: str


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


def reset_answer(after: UserUsage) -> ResetAnswer:
    """Return what a reset of a user came to."""
    return ResetAnswer(
        username=after.user.username,
        kind="user",
        total_usage_bytes=after.balance.used_bytes,
        users=1,
    )


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


def shown_plan(store: Store, plan: PanelRebasePlan) -> PanelRebaseAnswer:
    """Return what is shown of a plan, in the terminal too."""
    return PanelRebaseAnswer(
        doubt=plan.doubt, accounts=[_rebased(store, each) for each in plan.accounts]
    )


def _rebased(store: Store, accepted: Acceptance) -> RebasedAccount:
    before, after = accepted.before, accepted.after
    account = after or before
    total_bytes = store.usage.total_bytes(account.key)
    return RebasedAccount(
        username=store.placement.public_name(account.username),
        what=accepted.fate.value,
        quota_bytes=account.quota_bytes,
        external_bytes=balance(account, total_bytes=total_bytes).external_bytes,
        marzban_bytes_before=before.sighting.used_bytes,
        marzban_bytes=after.sighting.used_bytes if after else None,
        published_limit_bytes=after.sighting.data_limit_bytes if after else None,
        status=after.sighting.status.value if after else None,
    )
