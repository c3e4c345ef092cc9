"""Counts the changes of users that are applied or refused, and makes those that are no write."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from marzban_bridge.errors import PanelRefusedError, UserNotFoundError
from marzban_bridge.metrics import Metrics
from marzban_bridge.panels.port import Panel
from marzban_bridge.panels.users import PanelUser
from marzban_bridge.quota.account import Account, Event
from marzban_bridge.quota.plan import Change, ChangeKind
from marzban_bridge.reconcile.users.resets import UserResets
from marzban_bridge.store.store import Store

T = TypeVar("T")


class Changes:
    """The changes of one panel's users."""

    def __init__(
        self,
        *,
        store: Store,
        panel: Panel,
        resets: UserResets,
        clock: Callable[[], datetime],
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._panel = panel
        self._resets = resets
        self._clock = clock
        self._metrics = metrics

    async def counted(self, change: Change, applying: Awaitable[T]) -> T:
        """Return what applying a change returns, and count it.

        Panel errors pass through; a refusal is recorded as a conflict.
        """
        try:
            result = await applying
        except PanelRefusedError as error:
            self._metrics.changes.labels(kind=change.kind.value, result="refused").inc()
            if not isinstance(error, UserNotFoundError):
                event = Event(kind="conflict", text=f"{change.kind} was refused: {error}")
                self._store.events.record(change.username, event, at=self._clock())
            raise
        self._metrics.changes.labels(kind=change.kind.value, result="applied").inc()
        return result

    async def apply(self, account: Account, user: PanelUser, change: Change) -> PanelUser:
        """Carry out a change that is no write; return the user as the panel then shows it.

        A reset is only requested: it is carried out when the user is evaluated again.
        """
        if change.kind is ChangeKind.RESET:
            self._resets.request(account, cause=change.reason, actor="bridge")
        elif change.kind is ChangeKind.FIRE_NEXT_PLAN:
            asked = replace(account, fire_attempts=account.fire_attempts + 1)
            self._store.accounts.save(asked, at=self._clock())
            await self._panel.fire_next_plan(account.username)
            user = await self._panel.get_user(account.username)
        return user
