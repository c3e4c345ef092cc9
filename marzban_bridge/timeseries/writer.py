"""Writes quota and usage of accounts, and events, to InfluxDB.

InfluxDB is for display only. During an outage only the keys of changed accounts are queued; events
stay in the store, after a cursor that moves on success only.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Protocol

from collector.influx.delivery import Delivered, Refused, deliver
from collector.influx.outcome import Halt, Outcome, Retry
from collector.runtime.daemon_executor import DaemonExecutor
from collector.runtime.outage import Outage
from collector.runtime.pace import Pace
from collector.schema import EVENTS, RESELLER_USAGE, USER_LISTS, USER_USAGE, Policy
from marzban_bridge.clock import Clock
from marzban_bridge.errors import NotLeadingError
from marzban_bridge.metrics import Metrics
from marzban_bridge.panels.names import PublicName
from marzban_bridge.quota.account import Account
from marzban_bridge.quota.balance import trusted
from marzban_bridge.reconcile.standstill import Standstill
from marzban_bridge.store.store import Store
from marzban_bridge.timeseries.figures import AccountId, UserFigures, figures_of, millis_of
from marzban_bridge.timeseries.points import (
    Ending,
    Series,
    event_line,
    last_line,
    series_of,
    usage_line,
)
from marzban_bridge.timeseries.resellers import ResellerPoints
from marzban_bridge.timeseries.summaries import Summaries

log = logging.getLogger(__name__)

PAGE = 200
"""Accounts or events per request; a larger page would block the event loop."""
GATHER_SECONDS = 3.0
"""How long changes are collected, so that a busy user is written once and not for each report."""
LONGEST_PAUSE_SECONDS = 60.0
DEFECT_PAUSE_SECONDS = 60.0
JITTER_SHARE = 0.25
REFUSAL_LOG_SECONDS = 600.0
JUST_BEFORE = timedelta(milliseconds=1)
"""How long before the first point of a user's new series the old one ends."""
RETENTION_MARGIN = timedelta(minutes=1)
"""Points this close to the end of the retention are not sent."""
EVENTS_CURSOR = "influx_events_cursor"


class Influx(Protocol):
    """An InfluxDB to write to; blocking."""

    def write(self, bucket: str, lines: Sequence[str]) -> Outcome:
        """Write lines; return the outcome."""
        ...

    def close(self) -> None:
        """Close the connection; the next write opens another."""
        ...


class TimeSeriesWriter:
    """Writes the accounts and events of one bridge to one InfluxDB.

    `run` does so until cancelled; `step` writes one page. At its start all accounts are written.
    `page_of` returns the URL of a panel's page of a user.
    """

    def __init__(
        self,
        *,
        store: Store,
        influx: Influx,
        clock: Clock,
        metrics: Metrics,
        heartbeat_seconds: float,
        raw_days: int,
        monotonic_seconds: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        standstill: Standstill | None = None,
        page_of: Callable[[str, str], str] = lambda _panel, _username: "",
    ) -> None:
        self._store = store
        self._stores = {panel: store.of(panel) for panel in store.panels}
        self._influx = influx
        self._clock = clock
        self._metrics = metrics
        self._heartbeat_seconds = heartbeat_seconds
        self._kept = timedelta(days=raw_days) - RETENTION_MARGIN
        self._monotonic_seconds = monotonic_seconds
        self._jitter = jitter
        self._page_of = page_of
        self._standstill = standstill or Standstill()
        self._thread = DaemonExecutor(1, thread_name_prefix="time-series")
        self._wake = asyncio.Event()
        self._changed: set[AccountId] = set()
        self._being_written: set[AccountId] = set()
        self._written: dict[AccountId, int] = {}
        """A digest of what InfluxDB last stored of each account: an equal one is no change."""
        self._series: dict[AccountId, Series] = {}
        """The series of each account's last point; it is ended when the account gets another."""
        self._changes_due_at = math.inf
        self._all_due_at = self._resume_at = -math.inf
        self._all_after: AccountId | None = None
        self._deleted_after: AccountId | None = (next(iter(self._stores)), "")
        """The account up to which the series of deleted users are ended, since users may have been
        deleted while no bridge ran; None when all are."""
        self._summaries = Summaries(self._stores)
        self._resellers = ResellerPoints(self._stores)
        self._may_have_events = True
        self._refusals_logged_at: dict[str, float] = {}
        self.outage = Outage(
            "InfluxDB", pace=Pace(first_seconds=0.5, longest_seconds=LONGEST_PAUSE_SECONDS)
        )
        """Whether points are stored, and why not; not an outage before the first write."""

    def events_through(self) -> int:
        """Return the number of the last event that InfluxDB has; 0 before the first."""
        return int(self._store.meta(EVENTS_CURSOR) or 0)

    def mark_changed(self, panel: str, keys: Iterable[str]) -> None:
        """Queue these accounts, and new events."""
        if store := self._stores.get(panel):
            self._changed.update(
                (panel, key)
                for key in keys
                if (panel, key) not in self._changed
                and ((panel, key) in self._series or store.accounts.has(key))
            )
        if self._changes_due_at == math.inf:
            self._changes_due_at = self._monotonic_seconds() + GATHER_SECONDS
            self._wake.set()

    async def run(self) -> None:
        """Write what changes until cancelled."""
        self._store.on_change = self.mark_changed
        while True:
            try:
                async with self._standstill.step():  # no sums of a ledger read in part
                    pause_seconds = await self.step()
            except NotLeadingError:
                raise
            except Exception as error:  # noqa: BLE001 - logged, and limits are kept
                reason = f"a defect, see the log: {error!r}"
                self.outage.failed(reason, defect=error, is_told_if_new=True)
                pause_seconds = DEFECT_PAUSE_SECONDS
                self._resume_at = self._monotonic_seconds() + pause_seconds
            await self._sleep(pause_seconds)

    async def _sleep(self, seconds: float) -> None:
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._wake.wait()

    def close(self) -> None:
        """Close the connection; a write under way ends by itself or with the process."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._influx.close()

    async def step(self) -> float:
        """Write one page of what is due; return the seconds until the next one."""
        now_seconds = self._monotonic_seconds()
        if now_seconds < self._resume_at:
            return self._resume_at - now_seconds
        self._take_due(now_seconds)
        if self._may_have_events:
            await self._write_events()
        elif self._resellers.is_due:
            await self._write_resellers()
        elif self._being_written:
            await self._write_changed()
        elif self._all_after is not None:
            await self._write_all(self._all_after)
        elif self._deleted_after is not None:
            await self._write_deleted(self._deleted_after)
        elif now_seconds >= self._summaries.due_at_seconds:
            await self._write_summaries(now_seconds)
        else:
            due = (self._changes_due_at, self._all_due_at, self._summaries.due_at_seconds)
            return min(due) - now_seconds
        return 0.0

    def _take_due(self, now_seconds: float) -> None:
        """Move the collected changes to those being written, and begin a round, where it is due."""
        if now_seconds >= self._changes_due_at:
            self._changes_due_at = math.inf
            self._being_written |= self._changed
            self._changed.clear()
            self._may_have_events = self._resellers.is_due = True
        if now_seconds >= self._all_due_at:
            self._all_due_at = now_seconds + self._heartbeat_seconds
            if self._all_after is None:
                self._all_after = (next(iter(self._stores)), "")
                self._written.clear()
                self._summaries.begin_round()
                self._resellers.begin_round()

    async def _write_events(self) -> None:
        oldest_at = self._clock() - self._kept
        stored_cursor = self._store.meta(EVENTS_CURSOR)
        if stored_cursor is None:
            cursor = self._store.events.last_before(oldest_at)
        else:
            cursor = int(stored_cursor)
        page = self._store.events.after(cursor, limit=PAGE)
        placements = {panel: self._store.of(panel).placement for panel in {e.panel for e in page}}
        points = [
            event_line(each, username=placements[each.panel].public_name(each.username))
            for each in page
            if each.at >= oldest_at
        ]
        if not await self._deliver(EVENTS.name, points):
            return
        if page:
            self._store.set_meta(EVENTS_CURSOR, str(page[-1].seq))
        self._may_have_events = len(page) == PAGE

    async def _write_resellers(self) -> None:
        if await self._deliver(RESELLER_USAGE.name, self._resellers.lines(at=self._clock())):
            self._resellers.written()

    async def _write_changed(self) -> None:
        ids = set(itertools.islice(self._being_written, PAGE))
        accounts = [
            (panel, account)
            for panel, key in ids
            if (account := self._stores[panel].accounts.get(key))
        ]
        missing = ids - {(panel, account.key) for panel, account in accounts}
        deleted = missing & self._series.keys()
        endings = [
            last_line(self._series[each], Ending.DELETED, at=self._clock()) for each in deleted
        ]
        if await self._write_accounts(accounts, skips_written=True, endings=endings):
            self._being_written -= ids
            self._summaries.forget(missing)
            for each in deleted:
                del self._series[each]

    async def _write_all(self, after: AccountId) -> None:
        panel, key = after
        accounts = self._stores[panel].accounts.page(admin=None, after=key, limit=PAGE)
        found = [(panel, account) for account in accounts]
        if await self._write_accounts(found, skips_written=False):
            self._all_after = self._next_page(panel, [each.key for each in accounts])
            if self._all_after is None:
                self._summaries.end_round()

    async def _write_deleted(self, after: AccountId) -> None:
        """End the series of users who were deleted within the retention; a repeat is harmless."""
        panel, key = after
        store = self._stores[panel]
        deleted = store.gone_accounts.page(since=self._clock() - self._kept, after=key, limit=PAGE)
        endings = []
        for each in deleted:
            account = each.account
            name = PublicName(panel, store.placement.public_name(account.username))
            series = series_of(account, name)
            if self._series.get((panel, account.key)) != series:
                endings.append(last_line(series, Ending.DELETED, at=each.gone_at + JUST_BEFORE))
        if await self._deliver(USER_USAGE.name, endings):
            self._deleted_after = self._next_page(panel, [each.account.key for each in deleted])

    async def _write_summaries(self, now_seconds: float) -> None:
        work = self._summaries.work(at_millis=millis_of(self._clock()))
        lines = await asyncio.get_running_loop().run_in_executor(self._thread, work)
        if await self._deliver(USER_LISTS.name, lines):
            self._summaries.written(at_seconds=now_seconds)

    def _next_page(self, panel: str, keys: Sequence[str]) -> AccountId | None:
        """Return the account after which the next page begins; None if this was the last page."""
        if len(keys) == PAGE:
            return panel, keys[-1]
        panels = list(self._stores)
        later = panels[panels.index(panel) + 1 :]
        return (later[0], "") if later else None

    async def _write_accounts(
        self,
        accounts: Iterable[tuple[str, Account]],
        *,
        skips_written: bool,
        endings: Iterable[str | Refused] = (),
    ) -> bool:
        points: list[str | Refused] = [*endings]
        series: dict[AccountId, Series] = {}
        figures: dict[AccountId, UserFigures] = {}
        digests: dict[AccountId, int] = {}
        now = self._clock()
        for panel, account in accounts:
            store, account_id = self._stores[panel], (panel, account.key)
            shown = trusted(account, is_store_suspended=bool(self._store.suspended))
            name = PublicName(panel, store.placement.public_name(account.username))
            totals = store.usage.totals(account.key)
            page = self._page_of(panel, account.username)
            figures[account_id] = figures_of(shown, totals, at=now, name=name, panel_user_url=page)
            point = usage_line(shown, totals=totals, at=now, name=name, figures=figures[account_id])
            series[account_id] = series_of(account, name)
            if self._series.get(account_id, series[account_id]) != series[account_id]:
                points.append(
                    last_line(self._series[account_id], Ending.MOVED, at=now - JUST_BEFORE)
                )
            digest = hash(point.rpartition(" ")[0] if isinstance(point, str) else point)
            if not skips_written or self._written.get(account_id) != digest:
                points.append(point)
                digests[account_id] = digest
        is_written = await self._deliver(USER_USAGE.name, points)
        if is_written:
            self._written |= digests
            self._series |= series
            self._summaries.note(figures)
        return is_written

    async def _deliver(self, measurement: str, points: Sequence[str | Refused]) -> bool:
        """Write points; return whether each is stored or refused for good."""
        lines = [each for each in points if isinstance(each, str)]
        refused = [each for each in points if isinstance(each, Refused)]
        if lines:
            result = await asyncio.get_running_loop().run_in_executor(
                self._thread, lambda: deliver(lines, self._write)
            )
            if not isinstance(result, Delivered):
                self._wait(result)
                return False
            self.outage.recovered()
            self._metrics.influx_answered(is_up=True)
            stored = len(lines) - len(result.refused) - len(result.expired)
            self._metrics.snapshot_points.labels(measurement).inc(stored)
            refused += result.refused
        self._note_refused(measurement, refused)
        return True

    def _wait(self, why: Retry | Halt) -> None:
        pause_seconds = self.outage.failed(why.reason, is_told_if_new=isinstance(why, Halt))
        self._metrics.influx_answered(is_up=False)
        if isinstance(why, Halt):
            self._influx.close()  # the next try reads the token again
            self._all_due_at = -math.inf  # the bucket may be a new, empty one then
        elif why.after_seconds is not None:
            pause_seconds = max(pause_seconds, why.after_seconds)
        pause_seconds *= 1 + JITTER_SHARE * self._jitter()
        self._resume_at = self._monotonic_seconds() + pause_seconds

    def _write(self, lines: Sequence[str]) -> Outcome:
        return self._influx.write(Policy.RAW.bucket, lines)

    def _note_refused(self, measurement: str, refused: Sequence[Refused]) -> None:
        if not refused:
            return
        self._metrics.snapshot_refused_points.labels(measurement).inc(len(refused))
        now_seconds = self._monotonic_seconds()
        if now_seconds < self._refusals_logged_at.get(measurement, -math.inf) + REFUSAL_LOG_SECONDS:
            return
        self._refusals_logged_at[measurement] = now_seconds
        log.warning(
            "%d points of %s cannot be stored and are skipped, the first is %s: %s",
            len(refused),
            measurement,
            refused[0].line[:300],
            refused[0].reason[:300],
        )
