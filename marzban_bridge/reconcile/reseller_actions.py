"""Sets, removes and resets the quotas of one panel's resellers: for command line and API."""

from __future__ import annotations

import difflib

from marzban_bridge.clock import Clock
from marzban_bridge.errors import BridgeError, UnknownResellerError
from marzban_bridge.panels.names import account_key
from marzban_bridge.panels.port import Panel
from marzban_bridge.panels.users import PanelUser
from marzban_bridge.quota.resellers.charges import CountedUser
from marzban_bridge.quota.resellers.reseller import (
    MAX_QUOTA_BYTES,
    Reseller,
    ResellerChange,
    ResellerReset,
)
from marzban_bridge.reconcile.reseller_watch import names_of_owner
from marzban_bridge.reconcile.standstill import Standstill
from marzban_bridge.reconcile.work_queue import WorkQueue
from marzban_bridge.store.store import Store

MOST_RESELLERS = 1000


class ResellerActions:
    """The quotas of one panel's admins. Each change is stored with an event."""

    def __init__(
        self,
        *,
        store: Store,
        panel: Panel,
        queue: WorkQueue,
        clock: Clock,
        standstill: Standstill,
    ) -> None:
        self._store = store
        self._panel = panel
        self._queue = queue
        self._clock = clock
        self._standstill = standstill

    async def set(self, admin: str, change: ResellerChange, *, actor: str) -> Reseller:
        """Set an admin's quota, or the values of it that are given; return the reseller.

        A new quota begins now with nothing used, is never reset and is not enforced, unless
        `change` says otherwise. Raises UnknownResellerError for an admin that the panel does not
        have, BridgeError for a quota outside its bounds, and the panel's errors.
        """
        with self._standstill.action():
            before, users = self._store.resellers.get(admin), dict[str, CountedUser]()
            if before is None:
                await self._demand_admin(admin)
                users = await self._counted_users(admin)
            now = self._clock()
            if before is None:
                before = Reseller(
                    admin=admin,
                    quota_bytes=0,
                    reset=ResellerReset.NEVER,
                    is_enforced=False,
                    used_bytes=0,
                    period_started_at=now,
                    listed_at=now,
                )
            wanted = change.applied_to(before)
            if not 0 < wanted.quota_bytes <= MAX_QUOTA_BYTES:
                raise BridgeError(
                    f"the quota of reseller {admin!r} has to be more than nothing and at most "
                    "1 EiB: give --quota, such as 5TiB"
                )
            reseller = self._store.resellers.set(wanted, users, actor=actor, at=now)
        self._settle_users(admin)
        return reseller

    async def _demand_admin(self, admin: str) -> None:
        if len(self._store.resellers.all()) >= MOST_RESELLERS:
            raise BridgeError(f"there are {MOST_RESELLERS} resellers with a quota already")
        names = [each.username for each in await self._panel.admins()]
        if admin in names:
            return
        close = difflib.get_close_matches(admin, names, n=3, cutoff=0.7)
        hint = f"did you mean {' or '.join(close)}?" if close else "it is to be one of its admins"
        raise UnknownResellerError(f"the panel has no admin {admin!r} in its database: {hint}")

    async def _counted_users(self, admin: str) -> dict[str, CountedUser]:
        """Return what an admin's users have used until now, by account key."""
        found: dict[str, CountedUser] = {}
        async for names in names_of_owner(self._panel, admin):
            listed = await self._panel.get_users(names)
            for user in listed.users:
                found[account_key(user.username)] = self._counted(user)
        return found

    def _counted(self, user: PanelUser) -> CountedUser:
        key, store = account_key(user.username), self._store
        account = store.accounts.get(key)
        external_bytes = store.usage.own_totals(key).billed_bytes
        if account and not store.shares_quotas:
            external_bytes -= account.admin_baseline_bytes
        elif not store.shares_quotas:
            external_bytes -= store.openings.of_new_account(key).billed_bytes
        return CountedUser(
            admin=user.admin,
            created_at=user.created_at,
            period_started_at=account.period_started_at if account else self._clock(),
            lifetime_bytes=user.lifetime_bytes,
            external_bytes=external_bytes,
            is_shared=store.shares_quotas,
        )

    def unset(self, admin: str, *, actor: str) -> None:
        """Remove an admin's quota; its users are enabled again.

        Raises UnknownResellerError where it has none.
        """
        with self._standstill.action():
            if not self._store.resellers.unset(admin, actor=actor, at=self._clock()):
                raise _without_quota(admin)
        self._settle_users(admin)

    def reset(self, admin: str, *, actor: str) -> Reseller:
        """Begin a new period of an admin's quota, with nothing used; its users are enabled again.

        Their own periods, quotas and traffic stay. Raises UnknownResellerError where it has none.
        """
        with self._standstill.action():
            reseller = self._store.resellers.reset(admin, actor=actor, at=self._clock())
            if reseller is None:
                raise _without_quota(admin)
        self._settle_users(admin)
        return reseller

    def find(self, admin: str) -> Reseller:
        """Return an admin's quota and usage; UnknownResellerError where it has none."""
        reseller = self._store.resellers.get(admin)
        if reseller is None:
            raise _without_quota(admin)
        return reseller

    def _settle_users(self, admin: str) -> None:
        self._queue.add(self._store.accounts.keys_of_owner(admin))


def _without_quota(admin: str) -> UnknownResellerError:
    return UnknownResellerError(
        f"reseller {admin!r} has no quota; `marzban-bridge resellers` lists those that have one"
    )
