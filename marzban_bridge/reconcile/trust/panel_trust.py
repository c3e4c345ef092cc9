"""Whether one panel's data is trusted: combines the checks of samples and of a second bridge."""

from __future__ import annotations

from collections.abc import AsyncIterator

from marzban_bridge.errors import PanelSuspendedError, StoreSuspendedError
from marzban_bridge.panels.users import PanelUser
from marzban_bridge.quota.account import Account
from marzban_bridge.reconcile.trust.census import Census
from marzban_bridge.reconcile.trust.second_bridge import SecondBridge
from marzban_bridge.store.store import Store


class PanelTrust:
    """Consulted before a user is changed, and to find the end of a suspension."""

    def __init__(self, *, store: Store, census: Census, second_bridge: SecondBridge) -> None:
        self._store = store
        self.census = census
        self.second_bridge = second_bridge

    @property
    def is_suspended(self) -> bool:
        """Whether no user of the panel may be changed, because of the store or of the panel."""
        return bool(self._store.suspended or self._store.suspension.reasons)

    def refuse_suspended(self) -> None:
        """Raise StoreSuspendedError or PanelSuspendedError while no user may be changed."""
        if self._store.suspended:
            raise StoreSuspendedError(self._store.suspended)
        self.census.refuse_suspended()

    async def is_untrusted(self, key: str, user: PanelUser, *, read_at: float) -> bool:
        """Tell whether a user must not be changed: the panel is suspended, or the limit another's.

        `user`: read at or after `read_at` (`time.monotonic`).
        """
        is_of_other = self.second_bridge.notice(key, user)
        return is_of_other or await self.census.is_untrusted(key, user, read_at=read_at)

    def is_plain(self, account: Account, user: PanelUser) -> bool:
        """Tell whether `is_untrusted` would find nothing in a user that the panel just showed.

        `account`: as it is stored.
        """
        return not (
            self.is_suspended
            or self.second_bridge.reason(account.key, user)
            or not self.census.is_as_before(account, user)
        )

    async def demand(self, key: str, user: PanelUser, *, read_at: float) -> None:
        """Raise PanelSuspendedError where a user must not be changed."""
        if await self.is_untrusted(key, user, read_at=read_at):
            self.census.refuse_suspended()
            raise PanelSuspendedError(
                self.second_bridge.reason(key, user) or "the panel is suspended"
            )

    async def preview(self, key: str, user: PanelUser | None, *, read_at: float) -> str | None:
        """Return why a user would not be changed, without storing it; None for no reason."""
        if user and (text := self.second_bridge.reason(key, user)):
            return text
        return await self.census.preview(key, user, read_at=read_at)

    async def evaluate_again(self, users: AsyncIterator[tuple[str, PanelUser]]) -> bool:
        """Check whether a suspended panel stays suspended; `users` are all users of it.

        Raises the panel's errors.
        """
        await self.census.evaluate_again()
        if self.second_bridge.is_there:
            await self.second_bridge.evaluate_again({key: user async for key, user in users})
        return bool(self._store.suspension.reasons)
