"""Leadership: one of the bridges of a store leads, and another takes over if the leader is gone.

A follower only polls the lease. A bridge that takes the lease opens the store; one that loses it,
or may have lost it, closes the store and follows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, TypeVar

from collector.runtime.background import end_all
from marzban_bridge.errors import NotLeadingError, StoreAwayError, StoreError
from marzban_bridge.panels.write_guard import WriteGuard
from marzban_bridge.quota.account import Event
from marzban_bridge.store.postgres import schema as shared_schema
from marzban_bridge.store.postgres.database_mark import place_of
from marzban_bridge.store.postgres.lease import RENEW_SECONDS, Lease
from marzban_bridge.store.postgres.link import Db, PostgresLink
from marzban_bridge.store.postgres.replica import PostgresReplica
from marzban_bridge.store.postgres.terms import has_moved, lost_text, moved_text
from marzban_bridge.store.store import Store

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""The interval at which a follower polls the lease."""
T = TypeVar("T")


class Leadership:
    """This process's role: follower, or leader while it holds the lease."""

    def __init__(self, url: str, *, lease: Lease | None = None) -> None:
        self._url = url
        self._link = PostgresLink(url)
        self.lease = lease or Lease()
        self.guard = WriteGuard(self.lease)
        self._is_prepared = False
        self.problem: str | None = "not reached yet"
        """Why the leader is unknown; None while it is known."""
        self._was_told: str | None = None
        self._mark: str | None = None
        self._store: Store | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lease")

    @property
    def leader(self) -> str | None:
        """The holder of the lease as last read; None if there is none or it is unknown."""
        row = self.lease.row
        if self.problem or row is None or row.is_expired or not row.token:
            return None
        return row.holder

    async def run(self, lead: Callable[[Store], Awaitable[None]]) -> None:
        """Follow until the lease is free, lead until it is lost, and so on until cancelled.

        `lead` is cancelled when the lease is lost. Any other error of it passes through, after the
        lease was given back, as on cancellation.
        """
        try:
            while True:
                if not await self.try_to_take():
                    await asyncio.sleep(POLL_SECONDS)
                    continue
                log.warning("leading as %s, epoch %d", self.lease.holder, self.lease.epoch)
                try:
                    await self._lead(lead)
                except (NotLeadingError, StoreAwayError) as error:
                    log.error("not leading any more: %s", error)  # noqa: TRY400 - one line
                    await asyncio.sleep(POLL_SECONDS)
        finally:
            await self.close()

    async def lead_once(self, act: Callable[[Store], Awaitable[T]]) -> T:
        """Take the lease, run `act`, and give the lease back.

        Raises StoreError when another bridge leads, NotLeadingError when the lease is lost
        meanwhile, and errors of `act`.
        """
        try:
            if not await self.try_to_take():
                raise StoreError(
                    f"the bridge {self.leader} leads: run the command there, or stop all bridges. "
                    f"The lease of a killed bridge ends after {self.lease.seconds:g} s"
                    if self.leader
                    else self.problem or "another bridge has just begun to lead"
                )
            return await self._lead(act)
        finally:
            await self.close()

    async def try_to_take(self) -> bool:
        """Take the lease if it is free; False also while the database is unavailable.

        Raises StoreError (not StoreAwayError) when the store cannot be used at all.
        """
        try:
            if not self._is_prepared:
                await self._in_thread(lambda: shared_schema.prepare(self._url))
                self._is_prepared = True
            is_taken = await self._in_thread(lambda: self._link.ask(self._take))
        except StoreAwayError as error:
            self.problem = str(error)
            self._is_prepared = False
            self._tell(str(error))
            return False
        self.problem = None
        if is_taken:
            self._was_told = None
        elif self.leader:
            self._tell(f"following {self.leader}")
        return is_taken

    def _take(self, db: Db) -> bool:
        """Take the lease if it is free; as a follower, report lost commits to the leader."""
        is_taken = self.lease.take(db)
        place = place_of(db)
        self._mark = place.mark if place else None
        if place:
            self.lease.saw(place.mark, waits_for_standby=place.waits_for_standby)
        if self.lease.missing and not is_taken:
            log.error("%s", text := self._loss())
            self.lease.leave_loss(db, text)
        return is_taken

    def _loss(self) -> str:
        """Return the message for lost, or possibly lost, commits; empty if there are none."""
        lease, name = self.lease, self._link.name
        if lease.missing:
            return lost_text(where=name, known=lease.missing, holder=lease.holder)
        led_in = lease.row.mark if lease.row else ""
        if not lease.loss and has_moved(led_in, self._mark, seen=lease.marks):
            return moved_text(where=name)
        return lease.loss

    async def _vouch(self, store: Store) -> None:
        """Suspend the store if commits may be missing, and record its place."""
        if (text := self._loss()) and store.suspended is None:
            log.error("%s", text)
            event = Event(kind="conflict", text=text)
            store.suspend(text, event, at=datetime.now(UTC))
        await self._in_thread(lambda: self._link.ask(lambda db: self.lease.settle(db, self._mark)))

    def _tell(self, line: str) -> None:
        if line != self._was_told:
            self._was_told = line
            log.warning("%s", line)

    async def _lead(self, act: Callable[[Store], Awaitable[T]]) -> T:
        """Run `act` on the store while another task renews the lease.

        Raises NotLeadingError when the lease is lost; `act` was cancelled and has ended by then.
        """
        renewing = asyncio.create_task(self._renew(), name="lease")
        leading = asyncio.create_task(self._with_store(act), name="leading")
        tasks: set[asyncio.Task[Any]] = {renewing, leading}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_all(tasks)
        if leading.cancelled():
            await renewing
        return await leading

    async def _with_store(self, act: Callable[[Store], Awaitable[T]]) -> T:
        store = await self._open()
        try:
            await self._vouch(store)
            self._store = store
            return await act(store)
        finally:
            self._store = None
            store.close()

    async def _open(self) -> Store:
        """Read the store in a thread, which may take long, while the lease is renewed."""
        opening = asyncio.create_task(
            asyncio.to_thread(lambda: Store(PostgresReplica(self._url, self.lease)))
        )
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_drop)
            raise

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self._in_thread(lambda: self._link.ask(self._extend))
            except StoreAwayError as error:
                if not self.lease.is_held:
                    raise NotLeadingError(f"the lease could not be kept: {error}") from error
            if self.lease.loss and self._store:
                await self._vouch(self._store)

    def _extend(self, db: Db) -> None:
        """Renew the lease; success proves that no commit this process has seen is missing.

        So after a failover the new place is recorded as complete.
        """
        self.lease.extend(db)
        place = place_of(db)
        if place and place.mark != self._mark and not self.lease.loss:
            self._mark = place.mark
            self.lease.saw(place.mark, waits_for_standby=place.waits_for_standby)
            self.lease.settle(db, place.mark)

    async def close(self) -> None:
        """Give the lease back: at once, or after the time in which unanswered writes may land."""
        if self.lease.token is not None:
            with contextlib.suppress(StoreError):
                await self._in_thread(self._release)
        await self._in_thread(self._link.close)
        self._thread.shutdown(wait=False)

    def _release(self) -> None:
        def release(db: Db) -> None:
            self.lease.release(db, after_seconds=self.guard.open_seconds)

        self._link.ask(release)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Run a blocking call of the database in this object's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _drop(opening: asyncio.Task[Store]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
