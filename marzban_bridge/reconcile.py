"""The loop: reads the feed, reacts to single users at once, and looks at everybody now and then.

The panel's and the collector's failures are soft: state is kept, the work is taken up again with a
growing pause, and the change of state is logged once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from marzban_bridge.accounts import account_key
from marzban_bridge.errors import (
    BridgeError,
    CollectorRefusedError,
    CollectorUnavailableError,
    PanelError,
    PanelFailingError,
    PanelLoginError,
    PanelUnavailableError,
)
from marzban_bridge.feed import CollectorFeed
from marzban_bridge.history import last_shared_seq, learn, went_back
from marzban_bridge.metrics import Metrics
from marzban_bridge.outage import Outage
from marzban_bridge.panel import Panel, PanelUser
from marzban_bridge.settle import Clock, Preview, Settler
from marzban_bridge.store import Store
from marzban_bridge.witness import Witness

log = logging.getLogger(__name__)

CHUNK = 50
CONCURRENT_USERS = 4
FEED_WAIT_SECONDS = 25.0
FEED_GATHER_SECONDS = 0.5
"""The shortest time between two reads of a feed that has news all the time."""
URGENT_IN_A_ROW = 4
"""So many chunks of urgent users, then one of a pass under way: a flood of them starves no pass."""
PASS_POSITION = "pass_position"  # noqa: S105 - the pass is one over all users
PROGRESS_LOG_SECONDS = 10.0
VOUCH_SECONDS = 30.0
"""So long users wait at the start for the collector to vouch for the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassResult:
    """What one pass over all users came to."""

    users: int
    failures: int
    seconds: float


class Reconciler:
    """Keeps the panel in step with the ledger.

    `run` does it for ever; `run_once` is one pass over everybody and the same code.
    """

    def __init__(
        self,
        *,
        store: Store,
        panel: Panel,
        feed: CollectorFeed,
        settler: Settler,
        witness: Witness,
        clock: Clock,
        metrics: Metrics,
        pass_seconds: float,
    ) -> None:
        self._store = store
        self._panel = panel
        self._feed = feed
        self.settler = settler
        settler.hurry = self.hurry
        self.witness = witness
        self._clock = clock
        self._metrics = metrics
        self._pass_seconds = pass_seconds
        self._urgent: dict[str, float] = {}
        self._wake = asyncio.Event()
        self.panel_outage = Outage("panel")
        self.collector_outage = Outage("collector")

    def hurry(self, keys: Iterable[str]) -> None:
        """Have these accounts looked at before anything else."""
        for key in keys:
            self._urgent.setdefault(key, time.monotonic())
        self._wake.set()

    async def run(self) -> None:
        """Read the feed and settle users until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_feed())
            tasks.create_task(self._work())
            tasks.create_task(self.witness.run())

    async def run_once(self) -> PassResult:
        """Read the feed to its end and settle every user once.

        Raises the panel's or the collector's error when one of them cannot be reached.
        """
        await self.witness.check()
        while await self._read_feed(wait_seconds=0):
            pass
        self._urgent.clear()
        self.settler.refuse_in_doubt()
        result = await self._pass_over_all()
        with contextlib.suppress(CollectorRefusedError):  # an older one cannot vouch
            await self.witness.leave_word()
        return result

    async def adopt_ledger(self) -> bool:
        """Read the feed from its start, whatever ledger it is now; return whether it is another."""
        cursor = self._store.cursor
        page = await self._feed.read(after=cursor)
        is_new_ledger = self._store.meta("ledger_id") != page.ledger_id
        if self._store.doubt:
            pass  # whoever is in the store is put in step with the panel
        elif is_new_ledger:
            await self._hold_reported_after(0)
        elif went_back(self._store.runs, page.runs, cursor=cursor, head=page.head):
            await self._begin_anew(cursor)
        self._store.forget_usage(ledger_id=page.ledger_id)
        while await self._read_feed(wait_seconds=0):
            pass
        self._urgent.clear()
        return is_new_ledger

    async def previews(self) -> AsyncIterator[Preview]:
        """Yield for every user the panel has what a pass would do; changes nothing, anywhere."""
        with contextlib.suppress(CollectorUnavailableError):  # a look does no harm without it
            await self.witness.check()
        self.settler.refuse_in_doubt()
        async for key, user in self.panel_users():
            yield self.settler.preview(key, user)

    async def panel_users(self) -> AsyncIterator[tuple[str, PanelUser]]:
        """Yield every user with external usage or an account, as the panel shows it now."""
        async for keys in self._chunks():
            for key, user in (await self._read_users(keys)).items():
                if user is not None:
                    yield key, user

    async def _follow_feed(self) -> None:
        wait_seconds = 0.0
        while True:
            try:
                await self.witness.check()
                cursor = self._store.cursor
                has_more = await self._read_feed(wait_seconds=wait_seconds)
            except (CollectorUnavailableError, CollectorRefusedError) as error:
                self._metrics.soft_errors.labels(source="collector").inc()
                self._metrics.collector_up.set(0)
                wait_seconds = 0.0
                await asyncio.sleep(self.collector_outage.failed(str(error)))
                continue
            wait_seconds = 0.0 if has_more else FEED_WAIT_SECONDS
            if not has_more and self._store.cursor != cursor:
                await asyncio.sleep(FEED_GATHER_SECONDS)

    async def _read_feed(self, *, wait_seconds: float) -> bool:
        """Take in one page of the feed; return whether there may be more at once."""
        cursor = self._store.cursor
        page = await self._feed.read(after=cursor, wait_seconds=wait_seconds)
        known_id = self._store.meta("ledger_id")
        if known_id is None:
            self._store.set_meta("ledger_id", page.ledger_id)
        elif known_id != page.ledger_id:
            raise CollectorRefusedError(
                f"the collector has another ledger now ({page.ledger_id}, was {known_id}): nothing "
                "is changed until `marzban-bridge rebase`, or until the old ledger is back"
            )
        self.collector_outage.recovered()
        self._metrics.collector_up.set(1)
        known = self._store.runs
        if went_back(known, page.runs, cursor=cursor, head=page.head):
            await self._begin_anew(cursor)
            return True
        if not page.changes:
            return False
        touched = self._store.record_usage(
            page.changes,
            cursor=page.cursor,
            runs=learn(known, page.runs, cursor=page.cursor),
        )
        self.hurry(key for key in touched if self.settler.needs_look(key))
        return page.cursor < page.head

    async def _begin_anew(self, cursor: int) -> None:
        """Hold whom a ledger that went back lost reports of, and read all of it again.

        Whether a total is above the one that was read says nothing then: it may have grown by
        other reports, and those that were lost are missing all the same.
        """
        page = await self._feed.read(after=0)
        shared_seq = last_shared_seq(self._store.runs, page.runs, head=page.head)
        log.error(
            "the ledger is not the one that was read up to %d: it went back to %d, as after a "
            "restored backup, and is at %d; whose reports were lost is held until `marzban-bridge "
            "rebase`; reading it anew",
            cursor,
            shared_seq,
            page.head,
        )
        await self._hold_reported_after(shared_seq)
        self._store.record_usage((), cursor=0, runs=())

    async def _hold_reported_after(self, seq: int) -> None:
        for key in self._store.keys_reported_after(seq):
            await self.settler.hold(key)

    async def _work(self) -> None:
        await self.witness.wait_checked(longest_seconds=VOUCH_SECONDS)
        next_pass_at = started_at = time.monotonic()
        chunks: AsyncIterator[list[str]] | None = None
        urgent_in_a_row = 0
        while True:
            if self._store.doubt:
                self._metrics.held.set(self._store.counts()["held"])
                await asyncio.sleep(self._pass_seconds)
                continue
            if chunks is None and time.monotonic() >= next_pass_at:
                chunks, started_at, urgent_in_a_row = self._lap(), time.monotonic(), 0
            is_turn_of_pass = chunks is not None and urgent_in_a_row >= URGENT_IN_A_ROW
            urgent = {} if is_turn_of_pass else self._take_urgent()
            urgent_in_a_row = urgent_in_a_row + 1 if urgent else 0
            keys: list[str] | None = list(urgent)
            if not keys and chunks is not None:
                keys = await anext(chunks, None)
                if keys is None:
                    chunks = None
                    next_pass_at = self._finish_pass(started_at)
            if not keys:
                await self._sleep_until(next_pass_at)
                continue
            try:
                await self._settle_all(keys)
            except PanelError as error:
                self.hurry(urgent)
                self._metrics.soft_errors.labels(source="panel").inc()
                self._metrics.panel_up.set(0)
                chunks, next_pass_at = None, time.monotonic()
                await asyncio.sleep(self.panel_outage.failed(str(error)))
            else:
                for hurried_at in urgent.values():
                    self._metrics.reaction_seconds.observe(time.monotonic() - hurried_at)

    def _take_urgent(self) -> dict[str, float]:
        keys = list(islice(self._urgent, CHUNK))
        return {key: self._urgent.pop(key) for key in keys}

    async def _sleep_until(self, monotonic_seconds: float) -> None:
        self._wake.clear()
        if self._urgent:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.01, monotonic_seconds - time.monotonic())):
                await self._wake.wait()

    async def _pass_over_all(self) -> PassResult:
        started_at = logged_at = time.monotonic()
        users = failures = 0
        async for keys in self._chunks():
            failures += await self._settle_all(keys)
            users += len(keys)
            if time.monotonic() - logged_at >= PROGRESS_LOG_SECONDS:
                logged_at = time.monotonic()
                log.info("pass: %d users so far, %d failures", users, failures)
        self._finish_pass(started_at)
        seconds = time.monotonic() - started_at
        return PassResult(users=users, failures=failures, seconds=seconds)

    def _finish_pass(self, started_at: float) -> float:
        """Count what there is after a pass; return when the next one begins.

        A pass over so many users that it takes longer than its interval leaves the panel alone for
        as long as it took.
        """
        seconds = time.monotonic() - started_at
        counts = self._store.counts()
        self._metrics.accounts.set(counts["accounts"])
        self._metrics.orphans.set(counts["orphans"])
        self._metrics.held.set(counts["held"])
        self._metrics.last_pass_timestamp_seconds.set(self._clock().timestamp())
        self._metrics.pass_seconds.set(seconds)
        return started_at + max(self._pass_seconds, 2 * seconds)

    async def _lap(self) -> AsyncIterator[list[str]]:
        """Yield everybody once, beginning where the last pass was left, if only by a crash.

        What is yielded counts as done when the next is asked for.
        """
        begins_after = self._store.meta(PASS_POSITION) or ""
        async for keys in self._chunks(after=begins_after):
            yield keys
            self._store.set_meta(PASS_POSITION, keys[-1])
        async for keys in self._chunks():
            if left := [key for key in keys if key <= begins_after]:
                yield left
                self._store.set_meta(PASS_POSITION, left[-1])
            if len(left) < len(keys):
                return

    async def _chunks(self, *, after: str = "") -> AsyncIterator[list[str]]:
        while keys := self._store.keys(after=after, limit=CHUNK):
            yield keys
            after = keys[-1]

    async def _read_users(self, keys: Sequence[str]) -> dict[str, PanelUser | None]:
        names = [name for key in keys for name in self.settler.spellings(key)]
        listed = await self._panel.get_users(names)
        found = {account_key(user.username): user for user in listed}
        return {key: found.get(key) for key in keys}

    async def _settle_all(self, keys: Sequence[str]) -> int:
        """Settle these users and return how many failed on their own account.

        Raises when the panel as a whole cannot be reached or refuses our sign-in.
        """
        read_at = time.monotonic()
        users = await self._read_users(keys)
        users = self.settler.take_in(users, read_at=read_at)
        results = await self._settle_read(users, read_at=read_at)
        self._metrics.looks.inc(len(keys))
        for result in results:
            if isinstance(result, BaseException):
                raise result
        self.panel_outage.recovered()
        self._metrics.panel_up.set(1)
        failures = sum(result is not None for result in results)
        self._metrics.soft_errors.labels(source="user").inc(failures)
        return failures

    async def _settle_read(
        self, users: Mapping[str, PanelUser | None], *, read_at: float
    ) -> Sequence[BaseException | None]:
        """Settle users, a few at the same time; return what each failed of."""
        gate = asyncio.Semaphore(CONCURRENT_USERS)

        async def settle(key: str, user: PanelUser | None) -> BridgeError | None:
            async with gate:
                try:
                    await self.settler.settle(key, user, read_at=read_at)
                except PanelFailingError as error:
                    log.error("user=%s could not be settled: %s", key, error)  # noqa: TRY400 - one line per failing user, no traceback
                    return error
                except (PanelUnavailableError, PanelLoginError):
                    raise
                except BridgeError as error:
                    log.error("user=%s could not be settled: %s", key, error)  # noqa: TRY400 - one line per failing user, no traceback
                    return error
                return None

        return await asyncio.gather(
            *(settle(key, user) for key, user in users.items()), return_exceptions=True
        )
