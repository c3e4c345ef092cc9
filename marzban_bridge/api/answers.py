"""Request and response bodies that several routes and the command line share."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from marzban_bridge.quota.account import Account
from marzban_bridge.quota.balance import Balance, balance
from marzban_bridge.quota.trust.acceptance import Acceptance
from marzban_bridge.reconcile.actions import UserUsage
from marzban_bridge.reconcile.trust.panel_rebase import PanelRebasePlan
from marzban_bridge.store.store import Store

SERVICE = "marzban-bridge"
"""The title by which a command recognizes a running bridge before it sends a password."""
REBASE_PHRASE = "rebase"
RELEASE_PHRASE = "release"
"""Has to be typed to confirm an action on all users."""


class ResetAnswer(BaseModel):
    """The user after a reset."""

    username: str
    kind: Literal["user", "admin"]
    total_usage_bytes: int
    users: int


class UserBalance(BaseModel):
    """Quota and usage of a user with external traffic, as of its last evaluation.

    For a held user: as of the moment before the ledger or the store lost commits.
    """

    username: str
    admin: str | None
    status: str
    quota_bytes: int | None
    marzban_bytes: int
    external_bytes: int
    """Billed external bytes of the current period."""
    external_raw_bytes: int | None
    """External bytes of the current period as reported, before ratios."""
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
    """Whether to reset all panels' users, as the bridge's admin; for sudo admins of the first."""


class ResetAllAnswer(BaseModel):
    """The number of users with external traffic that were reset."""

    users: int


class RebaseAnswer(BaseModel):
    """The users whose baseline moved; their usage is as before."""

    users: list[UserBalance]


class ReleaseAnswer(BaseModel):
    """The users that were written to, and the state of the bridge until it is restarted."""

    usernames: list[str]
    state: str


class RebasedAccount(BaseModel):
    """How accepting the panel as it is changes one account."""

    username: str
    what: str
    quota_bytes: int | None
    external_bytes: int
    marzban_bytes_before: int
    marzban_bytes: int | None
    """The used traffic that the panel shows now; null where it has no such user."""
    published_limit_bytes: int | None
    status: str | None


class PanelRebaseAnswer(BaseModel):
    """Why the panel is suspended (null if it is not), and how each account would change."""

    doubt: str | None
    accounts: list[RebasedAccount]


def reset_answer(after: UserUsage) -> ResetAnswer:
    """Build the answer to a reset of a user."""
    return ResetAnswer(
        username=after.user.username,
        kind="user",
        total_usage_bytes=after.balance.used_bytes,
        users=1,
    )


def shown_balance(account: Account, found: Balance, *, username: str) -> UserBalance:
    """Build the entry of an account, under the given name."""
    quota_bytes = account.quota_bytes
    return UserBalance(
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
    """Build the answer from a plan; the command line shows the same."""
    return PanelRebaseAnswer(
        doubt=plan.suspension_text, accounts=[_rebased(store, each) for each in plan.accounts]
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
