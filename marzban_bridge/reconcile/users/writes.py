"""Writes to single users in the panel: stored before they are sent, and again with the answer.

After a crash, or when a write lands long after it timed out, the next evaluation can tell it from
an admin's edit.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from marzban_bridge.errors import PanelUnavailableError
from marzban_bridge.panels.port import Panel
from marzban_bridge.panels.users import PanelUser, Status, UserUpdate
from marzban_bridge.quota.account import REMEMBERED_LIMITS, Account, Event, OpenWrite
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
from marzban_bridge.reconcile.users.concurrency import ConcurrencyLimit
from marzban_bridge.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedWrite:
    """A write that is stored as open."""

    account: Account
    user: PanelUser
    """As read before."""
    change: Change
    update: UserUpdate


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredWrite:
    """A write that was answered; the account is not stored yet."""

    account: Account
    event: Event
    user: PanelUser
    """As the panel's answer shows it."""


class UserWrites:
    """Writes to the users of one panel; a write takes at most `longest_seconds` with retries."""

    def __init__(
        self,
        *,
        store: Store,
        panel: Panel,
        clock: Callable[[], datetime],
        longest_seconds: float,
        uses_notes: bool,
        limit: ConcurrencyLimit,
    ) -> None:
        self._store = store
        self._panel = panel
        self._clock = clock
        self._longest_seconds = longest_seconds
        self._uses_notes = uses_notes
        self._limit = limit
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
        """Send an update of the user, which was just read; return the user in the panel's answer.

        Without `adds_line` (a release), the note is the one in `update`, or is not changed. Panel
        errors pass through; the write then stays open in the account.
        """
        opened = self.open(account, user, change, update, adds_line=adds_line)
        answered = await self.send(opened)
        self.store(answered)
        return answered.user

    def open(
        self,
        account: Account,
        user: PanelUser,
        change: Change,
        update: UserUpdate,
        *,
        adds_line: bool = True,
    ) -> OpenedWrite:
        """Store what is about to be written, which may be sent once that is committed.

        The parameters are those of `write`.
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
        return OpenedWrite(account=opened, user=user, change=change, update=update)

    async def send(self, write: OpenedWrite) -> AnsweredWrite:
        """Send a write; the caller stores the answer before it awaits anything else.

        Panel errors pass through; the write then stays open in the account.
        """
        opened, update = write.account, write.update
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
        return AnsweredWrite(
            account=with_own_edit(written, write.user, after),
            event=event_of(write.change, write.user, after),
            user=after,
        )

    def store(self, write: AnsweredWrite) -> None:
        """Store an answered write, and the event that says what it changed."""
        self._store.accounts.save(write.account, [write.event], at=self._clock())

    async def _send(
        self, opened: Account, update: UserUpdate
    ) -> tuple[PanelUser, tuple[OpenWrite, ...]]:
        """Send the last open write of an account; return the answer and the writes still open."""
        lost_tries: list[datetime] = []
        try:
            with self._limit.writing():
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
        """Remove this store's lines from the note of a user without an account.

        Panel errors pass through.
        """
        user = await self._panel.get_user(username)
        note = without_lines(user.note, stores=self._store.identity.names_to_take_out)
        if note != (user.note or ""):
            update = UserUpdate(username=user.username, note=note, next_plan=user.next_plan)
            await self._panel.update_user(update)

    async def claim(self, account: Account | None, username: str) -> bool:
        """Write only a line of this store into a user's note; False where the note has no room.

        Without an account the line has no quota. Panel errors pass through.
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
        """Add a note line to an update that sets a limit, a status or the admin's `text`.

        Returns the update, and whether it has a line.

        If the admin's text leaves no room, an earlier line is removed all the same, since it
        describes another limit. Lines of other bridges are removed too: a user with the line of a
        running bridge is not written to.
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
        if account.quota_bytes is None:  # unlimited: there is no published limit to describe
            return None
        total_bytes = self._store.usage.totals(account.key).billed_bytes
        external_bytes = total_bytes - account.baseline_bytes
        if external_bytes < 0:  # the total fell: the baseline cannot be given in the line
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
    """Add the status to an update if an open write that disables the user may land before it.

    Otherwise the panel would show the user disabled, with the limit of this update.
    """
    is_open = any(
        write.status is Status.DISABLED and not write.is_answered for write in account.open_writes
    )
    is_let_in = account.sighting.status in {Status.ACTIVE, Status.LIMITED}
    if update.status is not None or not is_open or not is_let_in:
        return update
    return replace(update, status=Status.ACTIVE)
