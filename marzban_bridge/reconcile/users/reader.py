"""Reads users from one panel by name, and decides which names are requested."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta

from marzban_bridge.clock import Clock
from marzban_bridge.metrics import Metrics
from marzban_bridge.panels.names import account_key
from marzban_bridge.panels.port import Panel
from marzban_bridge.panels.users import PanelUser
from marzban_bridge.reconcile.set_aside import SetAside
from marzban_bridge.reconcile.unknown_names import LONGEST_PAUSE, UnknownNames
from marzban_bridge.reconcile.work_queue import OtherQueues
from marzban_bridge.store.store import Store

log = logging.getLogger(__name__)

CHUNK = 50
GONE_LATELY = timedelta(hours=1)
"""For so long a deleted user is requested in each pass, so that its account continues soon."""
LONGEST_PAUSE_OF_GONE = timedelta(minutes=10)


class UserReader:
    """Reads users from one panel; unknown names with backoff."""

    def __init__(
        self,
        *,
        store: Store,
        panel: Panel,
        clock: Clock,
        metrics: Metrics,
        unknown: UnknownNames,
        elsewhere: OtherQueues,
    ) -> None:
        self._store = store
        self._panel = panel
        self._clock = clock
        self._elsewhere = elsewhere
        self.unknown = unknown
        """The backoff of names without a user."""
        self.set_aside = SetAside(store=store, metrics=metrics)

    async def chunks(self, *, after: str = "") -> AsyncIterator[list[str]]:
        """Yield the names that concern the panel in order, in chunks."""
        while keys := self._store.placement.keys(after=after, limit=CHUNK):
            yield keys
            after = keys[-1]

    async def all_users(self) -> AsyncIterator[tuple[str, PanelUser]]:
        """Yield every user with external usage or an account, as the panel shows it now."""
        async for keys in self.chunks():
            for key, user in (await self.read(keys)).items():
                if user is not None:
                    yield key, user

    def due(self, keys: Sequence[str]) -> list[str]:
        """Return the names that are to be requested now; all users with an account are."""
        known = self._store.accounts.usernames(keys)
        return [key for key in keys if key in known or self._is_due(key)]

    def _is_due(self, key: str) -> bool:
        now = self._clock()
        if self.unknown.is_new(key) and self._store.unknown_names.is_listed(key):
            # It was unknown before this process began; the list shows if it is a user now.
            self.unknown.rest(key, now=now)
            return True
        return self.unknown.is_due(key, now=now)

    def can_read_alone(self, key: str) -> bool:
        """Tell whether reading this user by its name shows all that `read` does."""
        return key not in self.set_aside and not self._store.name_owners.aliases_of([key])

    async def read(self, keys: Sequence[str]) -> dict[str, PanelUser | None]:
        """Return these users as read from the panel, None for names without a user.

        Users that are set aside are left out. Aliases that have a user of their own now are added.
        """
        usernames = self._store.accounts.usernames(keys)
        names = [
            name for key in keys if (name := usernames.get(key) or self._name_without_account(key))
        ]
        can_name = self._panel.dialect.can_name_user
        aliases = [name for name in self._store.name_owners.aliases_of(keys) if can_name(name)]
        listed = await self._panel.get_users(list(dict.fromkeys([*names, *aliases])))
        found = {account_key(user.username): user for user in listed.users}
        aside = {account_key(name): reason for name, reason in listed.aside.items()}
        self.set_aside.update(aside, asked=keys, readable=found, at=self._clock())
        parted = [name for name in aliases if name in found and self._part(name)]
        return {key: found.get(key) for key in (*keys, *parted) if key not in aside}

    def _part(self, name: str) -> bool:
        """Charge a name, so far an alias of another user, to its own user, which exists now."""
        if not self._store.name_owners.part(name, at=self._clock()):
            return False
        log.info("user=%r is in the panel now; its name is no alias of another user any more", name)
        self._elsewhere.add_if_needed([name])
        return True

    def name(self, key: str) -> str:
        """Return the name by which the panel is asked for an account, or for a name without one."""
        return self._store.accounts.username(key) or key

    def _name_without_account(self, key: str) -> str | None:
        """Return a name without an account; None for one that no user of the panel can have."""
        return key if self._may_be_user(key) else None

    def _may_be_user(self, key: str) -> bool:
        """Tell whether a user of the panel can be called so, or was."""
        is_known = self._store.accounts.has(key) or self._store.gone_accounts.get(key) is not None
        return is_known or self._panel.dialect.can_name_user(key)

    async def lose(self, key: str) -> list[str]:
        """Record that a name has neither account nor user; return the accounts it is charged to."""
        now = self._clock()
        candidates = await self._candidates(key, now)
        was_unknown = self._store.unknown_names.is_listed(key)
        rule = None if self._may_be_user(key) else self._panel.dialect
        owners = self._store.name_owners.record_unknown(
            key, candidates=candidates, dialect=rule, at=now
        )
        longest = LONGEST_PAUSE
        if gone := self._store.gone_accounts.get(key):
            is_late = now - gone.gone_at > GONE_LATELY
            longest = LONGEST_PAUSE_OF_GONE if is_late else timedelta(0)
        self.unknown.note(key, now=now, longest=longest, is_searched=candidates is not None)
        if owners:
            log.info("reports of user=%r are charged to %s", key, ", ".join(owners))
        elif self._store.unknown_names.is_listed(key) and not was_unknown:
            log.warning("orphan user=%r: traffic is reported for a name without a user", key)
        return owners

    async def _candidates(self, key: str, now: datetime) -> list[str] | None:
        """Search users whose name is equal without case; None where a search is not due."""
        if not self._panel.dialect.can_name_user(key):
            return []
        if not self.unknown.is_search_due(key, now=now):
            return None
        return await self._panel.names_like(key)
