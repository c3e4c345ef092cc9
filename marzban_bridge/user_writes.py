"""Writes to single users in the panel: stored before they are sent, and with what came of them.

After a crash, or when a write is carried out long after it timed out, the next look can so tell it
from an admin's edit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from marzban_bridge.accounts import REMEMBERED_LIMITS, Account
from marzban_bridge.errors import PanelUnavailableError
from marzban_bridge.open_writes import OpenWrite, answered, began, given_up, last_moment
from marzban_bridge.panel import Panel, PanelUser, Status, UserUpdate
from marzban_bridge.plan import Change, ChangeKind, event_of
from marzban_bridge.store import Store


class UserWrites:
    """Writes to the users of one panel; `longest_seconds` is what one may take with its tries."""

    def __init__(
        self,
        *,
        store: Store,
        panel: Panel,
        clock: Callable[[], datetime],
        longest_seconds: float,
    ) -> None:
        self._store = store
        self._panel = panel
        self._clock = clock
        self._longest_seconds = longest_seconds

    async def write(
        self, account: Account, user: PanelUser, change: Change, update: UserUpdate
    ) -> PanelUser:
        """Carry out an update of the user as it was just read; return it as the panel answers.

        Panel errors pass through; the write stays open in the account then.
        """
        update = _against_open_status(account, update)
        is_ours_to_set = change.kind is not ChangeKind.RESTORE or update.status is Status.ACTIVE
        write = OpenWrite(
            data_limit_bytes=update.data_limit_bytes,
            status=update.status if is_ours_to_set else None,
            may_land_until=last_moment(self._clock(), timeout_seconds=self._longest_seconds),
        )
        opened = replace(account, open_writes=began(account.open_writes, write))
        self._store.save(opened, at=self._clock())
        lost_tries: list[datetime] = []
        try:
            after = await self._panel.update_user(
                replace(update, next_plan=update.next_plan or user.next_plan),
                on_lost_try=lambda: lost_tries.append(self._clock()),
            )
        except PanelUnavailableError:
            writes = given_up(opened.open_writes, until=last_moment(self._clock()))
            self._store.save(replace(opened, open_writes=writes), at=self._clock())
            raise
        remembered = opened.remembered_limits
        if update.data_limit_bytes is not None:
            remembered = (*remembered, update.data_limit_bytes)[-REMEMBERED_LIMITS:]
        written = replace(
            opened,
            needs_readd=False,
            restoration=None,
            remembered_limits=remembered,
            open_writes=answered(opened.open_writes, may_land_again=bool(lost_tries)),
        )
        self._store.save(written, [event_of(change, user, after)], at=self._clock())
        return after


def _against_open_status(account: Account, update: UserUpdate) -> UserUpdate:
    """Have a write say the status where an earlier one that disables the user may land before it.

    The panel would otherwise show the user disabled, with the limit of this write.
    """
    is_open = any(
        write.status is Status.DISABLED and not write.is_answered for write in account.open_writes
    )
    is_let_in = account.sighting.status in {Status.ACTIVE, Status.LIMITED}
    if update.status is not None or not is_open or not is_let_in:
        return update
    return replace(update, status=Status.ACTIVE)
