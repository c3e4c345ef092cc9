"""Writes to single users in the panel: stored before they are sent, and with what came of them.

After a crash, or when a write is carried out long after it timed out, the next look can so tell it
from an admin's edit.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from marzban_bridge.errors import PanelUnavailableError
from marzban_bridge.panels.port import Panel
from marzban_bridge.panels.users import PanelUser, Status, UserUpdate
from marzban_bridge.quota.account import REMEMBERED_LIMITS, Account, OpenWrite
from marzban_bridge.quota.plan import Change, ChangeKind, event_of
from marzban_bridge.quota.writes.edit_times import with_own_edit
from marzban_bridge.quota.writes.note_line import (
    NoteLine,
    place_of,
    text_mark,
    with_line,
    without_lines,
)
from marzban_bridge.quota.writes.open_writes import answered, began, given_up, last_moment
from marzban_bridge.store.store import Store


class UserWrites:
    """Writes to the users of one panel; `longest_seconds` is what one may take with its tries."""

    def __init__(
        self,
        *,
        store: Store,
        panel: Panel,
        clock: Callable[[], datetime],
        longest_seconds: float,
        uses_notes: bool,
    ) -> None:
        self._store = store
        self._panel = panel
        self._clock = clock
        self._longest_seconds = longest_seconds
        self._uses_notes = uses_notes
        self._place = place_of(socket.gethostname())

    async def write(
        self,
        account: Account,
        user: PanelUser,
        change: Change,
        update: UserUpdate,
        *,
        adds_line: bool = True,
    ) -> PanelUser:
        """Carry out an update of the user as it was just read; return it as the panel answers.

        Without `adds_line`, as before an uninstall, the note is the update's, or left as it is.
        Panel errors pass through; the write stays open in the account then.
        """
        update = _against_open_status(account, update)
        is_ours_to_set = change.kind is not ChangeKind.RESTORE or update.status is Status.ACTIVE
        status = update.status if is_ours_to_set else None
        number = account.write_number + 1
        is_noted = False
        if adds_line:
            update, is_noted = self._noted(
                account,
                user,
                update,
                status=status,
                number=number,
                text=change.text_of_admin,
            )
        if not update.drops_next_plan:
            update = replace(update, next_plan=update.next_plan or user.next_plan)
        write = OpenWrite(
            data_limit_bytes=update.data_limit_bytes,
            status=status,
            next_plan=update.next_plan,
            may_land_until=last_moment(self._clock(), timeout_seconds=self._longest_seconds),
            number=number if is_noted else 0,
            text_mark=None if update.note is None else text_mark(without_lines(update.note)),
            lifts_limit=update.lifts_limit,
        )
        opened = replace(
            account, open_writes=began(account.open_writes, write), write_number=number
        )
        self._store.accounts.save(opened, at=self._clock())
        after, writes = await self._send(opened, update)
        remembered, wrote_at = opened.remembered_limits, opened.limit_written_at
        if update.data_limit_bytes is not None:
            remembered = (*remembered, update.data_limit_bytes)[-REMEMBERED_LIMITS:]
            wrote_at = self._clock()
        written = replace(
            opened,
            limit_written_at=wrote_at,
            needs_readd=False,
            restoration=None,
            lost_text=None,
            remembered_limits=remembered,
            open_writes=writes,
        )
        written = with_own_edit(written, user, after)
        self._store.accounts.save(written, [event_of(change, user, after)], at=self._clock())
        return after

    async def _send(
        self, opened: Account, update: UserUpdate
    ) -> tuple[PanelUser, tuple[OpenWrite, ...]]:
        """Send the last write of an account; return the answer, and which writes are open then."""
        lost_tries: list[datetime] = []
        try:
            after = await self._panel.update_user(
                update,
                on_lost_try=lambda: lost_tries.append(self._clock()),
            )
        except PanelUnavailableError:
            writes = given_up(opened.open_writes, until=last_moment(self._clock()))
            self._store.accounts.save(replace(opened, open_writes=writes), at=self._clock())
            raise
        return after, answered(opened.open_writes, may_land_again=bool(lost_tries))

    async def take_out_lines(self, username: str) -> None:
        """Take this store's lines out of the note of a user without an account.

        Panel errors pass through.
        """
        user = await self._panel.get_user(username)
        note = without_lines(user.note, stores=self._store.identity.names_to_take_out)
        if note != (user.note or ""):
            update = UserUpdate(username=user.username, note=note, next_plan=user.next_plan)
            await self._panel.update_user(update)

    async def claim(self, account: Account | None, username: str) -> bool:
        """Write a line of ours into a user's note, and nothing else; False where it has no room.

        Without an account it says that this bridge does not know the quota. Panel errors pass
        through.
        """
        store = self._store.identity.name_in_notes
        if not self._uses_notes or store is None:
            return False
        user = await self._panel.get_user(username)
        if account is None:
            number, quota_bytes, limit_bytes = int(self._clock().timestamp()), None, None
            external_bytes = total_bytes = 0
        else:
            number, quota_bytes = account.write_number + 1, account.quota_bytes
            limit_bytes, total_bytes = user.data_limit_bytes, account.seen_total_bytes
            external_bytes = max(0, total_bytes - account.baseline_bytes)
        line = NoteLine(
            store=store,
            number=number,
            place=self._place,
            quota_bytes=quota_bytes,
            limit_bytes=limit_bytes,
            external_bytes=external_bytes,
            total_bytes=max(total_bytes, external_bytes),
            is_disabled=account is not None and account.is_disabled_by_us,
        )
        text = without_lines(user.note, stores=self._store.identity.names_in_notes)
        note = with_line(text, line, username=user.username)
        if note is None:
            return False
        if account:
            account = replace(account, write_number=number)
            self._store.accounts.save(account, at=self._clock())
        update = UserUpdate(username=user.username, note=note, next_plan=user.next_plan)
        after = await self._panel.update_user(update)
        if account:
            self._store.accounts.save(with_own_edit(account, user, after), at=self._clock())
        return True

    def _noted(
        self,
        account: Account,
        user: PanelUser,
        update: UserUpdate,
        *,
        status: Status | None,
        number: int,
        text: str | None,
    ) -> tuple[UserUpdate, bool]:
        """Have a write that sets a limit, a status or the admin's `text` describe itself.

        Returns whether it does.

        Where the admin's text leaves no room an earlier line goes: it is about another limit.
        Lines of other bridges go too; those that are still there are not written beside.
        """
        store = self._store.identity.name_in_notes
        sets_limit = update.data_limit_bytes is not None or update.lifts_limit
        sets_status = sets_limit or update.status is not None
        sets_something = sets_status or text is not None
        if not self._uses_notes or store is None or not sets_something:
            return update, False
        left = without_lines(user.note) if text is None else text
        line = self._line(account, user, update, status=status, number=number, store=store)
        note = with_line(left, line, username=user.username) if line else None
        if note is not None:
            return replace(update, note=note), True
        return (update if left == (user.note or "") else replace(update, note=left)), False

    def _line(
        self,
        account: Account,
        user: PanelUser,
        update: UserUpdate,
        *,
        status: Status | None,
        number: int,
        store: str,
    ) -> NoteLine | None:
        if account.quota_bytes is None:  # no limit of the bridge is left that it could be about
            return None
        total_bytes = self._store.usage.totals(account.key).billed_bytes
        external_bytes = total_bytes - account.baseline_bytes
        if external_bytes < 0:  # a total that fell; what the period began at cannot be said
            return None
        limit_bytes = update.data_limit_bytes
        stays_disabled = update.status is None and account.is_disabled_by_us
        return NoteLine(
            store=store,
            number=number,
            place=self._place,
            quota_bytes=account.quota_bytes,
            limit_bytes=user.data_limit_bytes if limit_bytes is None else limit_bytes,
            external_bytes=external_bytes,
            total_bytes=total_bytes,
            is_disabled=status is Status.DISABLED or stays_disabled,
        )


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
