"""Resets of single users by the bridge: a request is stored, then the panel is called.

After a crash in between, the next evaluation of the user continues.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime

from marzban_bridge.errors import BridgeError, PanelUnavailableError
from marzban_bridge.metrics import Metrics
from marzban_bridge.panels.port import Panel
from marzban_bridge.panels.users import PanelUser
from marzban_bridge.quota import shared as shared_quotas
from marzban_bridge.quota.account import Account, Restoration
from marzban_bridge.quota.resets import requests as reset_requests
from marzban_bridge.quota.resets.reset_all import ResetAll
from marzban_bridge.quota.shared_switch import period_start_of, with_unseen
from marzban_bridge.quota.writes.late_landings import reset_found, reset_unanswered
from marzban_bridge.quota.writes.open_writes import last_moment
from marzban_bridge.store.store import Store

log = logging.getLogger(__name__)


class UserResets:
    """Resets of users of one panel. Panel errors pass through; the request stays stored."""

    def __init__(
        self,
        *,
        store: Store,
        panel: Panel,
        clock: Callable[[], datetime],
        metrics: Metrics,
        keeps_next_plan: bool,
    ) -> None:
        self._store = store
        self._panel = panel
        self._clock = clock
        self._metrics = metrics
        self._keeps_next_plan = keeps_next_plan
        self._calls_for_all = 0

    @property
    def wait_for_all(self) -> bool:
        """Whether the panel's reset of all users is under way: no user is reset singly then."""
        return self._calls_for_all > 0

    @contextlib.contextmanager
    def for_all(self) -> Iterator[None]:
        """Within the block, carry out no single reset: the panel resets all users.

        After a crash in the block the stored requests are carried out singly.
        """
        self._calls_for_all += 1
        try:
            yield
        finally:
            self._calls_for_all -= 1

    def request(self, account: Account, *, cause: str, actor: str) -> Account:
        """Store a reset request at the current total; `finish` carries it out."""
        return self._begin(account, cause=cause, actor=actor, shared_period=None)

    def follow(self, account: Account, period: int) -> Account:
        """Store a reset request because the user of this name on another panel was reset."""
        cause = "the quota is shared, and the user was reset on another panel"
        return self._begin(account, cause=cause, actor="bridge", shared_period=period)

    def _begin(
        self, account: Account, *, cause: str, actor: str, shared_period: int | None
    ) -> Account:
        totals, shared = (
            self._store.usage.totals(account.key),
            self._store.shared_quotas.get(account.key),
        )
        if account.owes_reset and shared_period is not None:
            totals = period_start_of(account)
        requested = reset_requests.begin(
            account,
            totals=totals,
            cause=cause,
            actor=actor,
            now=self._clock(),
            dialect=self._panel.dialect,
            keeps_next_plan=self._keeps_next_plan,
            shared_period=shared_period,
            requested_in_period=shared.period if shared else None,
        )
        self._store.accounts.save(requested, at=self._clock())
        return requested

    def note_of_everybody(self, admin: str | None, key: str) -> list[str]:
        """Record that a user's reset was one of all users of an admin; return their keys.

        Empty where this user's reset may be part of the known one.
        """
        now, noted = self._clock(), self._store.reset_news.of_everybody(admin)
        before = self._store.accounts.get(key)
        after = before.sighting.seen_at if before else now
        if noted is not None and after <= noted.seen_at:
            return []
        self._store.reset_news.record_of_everybody(admin, ResetAll(seen_at=now, after=after))
        log.info("reset_all owner=%s all users of this owner were reset in the panel", admin)
        return self._store.accounts.keys_of_owner(admin)

    async def finish(self, account: Account) -> PanelUser:
        """Carry out the stored request; return the user as the panel then shows it."""
        user = await self._panel.get_user(account.username)
        if reset_requests.is_call_needed(account, user):
            account = reset_requests.panel_called(await self._call(account))
            self._store.accounts.save(account, at=self._clock())
            user = await self._panel.get_user(account.username)
        elif account.reset_request and not account.reset_request.is_panel_called:
            if self._is_another(account, user):
                return user
            account = reset_found(account)
        now = self._clock()
        completed, event = reset_requests.complete(
            account, user, now=now, dialect=self._panel.dialect
        )
        shared = self._store.shared_quotas.get(account.key)
        if shared and account.reset_request:
            period = shared_quotas.period_of(account.reset_request, shared)
            number = shared.period
            completed, shared = shared_quotas.completed(account, completed, shared, period=period)
            if shared.period != number:
                shared = replace(shared, starts=self._store.period_starts(completed))
        elif account.reset_request and account.reset_request.shared_period is not None:
            completed = with_unseen(account, completed)
        self._store.accounts.save(completed, [event], at=now, shared=shared)
        self._metrics.resets.labels(cause="request").inc()
        name = self._store.placement.public_name(account.username)
        log.info("reset user=%s by=%s %s", name, event.actor, event.text)
        return user

    def _is_another(self, account: Account, user: PanelUser) -> bool:
        """Tell whether the user was reset on this panel before the shared reset reached it.

        The request is dropped then: the next evaluation detects the panel's own reset.
        """
        request, shared = account.reset_request, self._store.shared_quotas.get(account.key)
        if request is None or request.shared_period is None or shared is None:
            return False
        if account.open_resets or not reset_requests.has_happened(account, user):
            return False
        now, total_bytes = self._clock(), self._store.usage.total_bytes(account.key)
        if shared_quotas.is_same_reset(account, shared, total_bytes=total_bytes, at=now):
            return False
        plan = None if user.next_plan else request.restoration.next_plan
        restoration = account.restoration if plan is None else Restoration(next_plan=plan)
        dropped = replace(account, reset_request=None, restoration=restoration)
        self._store.accounts.save(dropped, at=now)
        return True

    async def _call(self, account: Account) -> Account:
        """Reset the user in the panel; a call without an answer may be carried out late.

        It is stored as open until it is answered, so that a crash does not lose it.
        """
        now = self._clock()
        self._store.accounts.save(reset_unanswered(account, until=last_moment(now)), at=now)
        try:
            await self._panel.reset_user(account.username)
        except PanelUnavailableError:
            now = self._clock()
            self._store.accounts.save(reset_unanswered(account, until=last_moment(now)), at=now)
            raise
        except BridgeError:
            self._store.accounts.save(account, at=self._clock())
            raise
        return account
