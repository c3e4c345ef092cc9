"""The wired parts of a running bridge: shared ones (`Bridges`), and those per panel (`Bridge`).

`Bridges` has the operations on all panels: run, one pass, rebase, rebuild, release, reset all. An
unreachable panel does not delay the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from marzban_bridge.clock import Clock
from marzban_bridge.config.panels_file import PanelSettings
from marzban_bridge.config.settings import Settings
from marzban_bridge.errors import BridgeError, CollectorRefusedError
from marzban_bridge.feed.client import CollectorFeed
from marzban_bridge.metrics import Metrics
from marzban_bridge.panels.names import FIRST_PANEL
from marzban_bridge.panels.port import Panel
from marzban_bridge.quota.account import Account, Event
from marzban_bridge.reconcile import rebuilding
from marzban_bridge.reconcile.actions import Actions
from marzban_bridge.reconcile.events_purge import EventsPurge
from marzban_bridge.reconcile.feed_reader import FeedReader
from marzban_bridge.reconcile.loop import Reconciler
from marzban_bridge.reconcile.pass_result import PassResult
from marzban_bridge.reconcile.rebuilding import Rebuilding
from marzban_bridge.reconcile.reseller_actions import ResellerActions
from marzban_bridge.reconcile.standstill import Standstill
from marzban_bridge.reconcile.trust.duplicate_names import DuplicateNameScan
from marzban_bridge.reconcile.trust.panel_rebase import PanelRebase
from marzban_bridge.reconcile.trust.rollback_check import RollbackCheck
from marzban_bridge.reconcile.users.settler import Settler
from marzban_bridge.reconcile.work_queue import WorkQueue
from marzban_bridge.store.store import Store
from marzban_bridge.timeseries.writer import TimeSeriesWriter

log = logging.getLogger(__name__)

RELEASED = (
    "all users have their quotas back, and the bridge changes nothing until it is restarted: stop "
    "it to uninstall it, or restart it to publish limits again"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """The parts of one panel."""

    panel_settings: PanelSettings
    store: Store
    """The store's view of this panel."""
    panel: Panel
    queue: WorkQueue
    settler: Settler
    reconciler: Reconciler
    actions: Actions
    resellers: ResellerActions
    panel_rebase: PanelRebase
    metrics: Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridges:
    """The bridges of one process: one per panel, on one store, one feed and one InfluxDB."""

    by_name: Mapping[str, Bridge]
    """By panel, in the order in which a public name is looked up."""
    settings: Settings
    store: Store
    clock: Clock
    feed: CollectorFeed
    feed_reader: FeedReader
    rollback_check: RollbackCheck
    duplicate_names: DuplicateNameScan
    time_series: TimeSeriesWriter | None
    """None when no InfluxDB is configured."""
    events_purge: EventsPurge | None
    """None when events are kept for ever."""
    standstill: Standstill

    @property
    def first(self) -> Bridge:
        """The bridge of the panel of `MARZBAN_URL`; it serves requests that name no panel."""
        return self.by_name[FIRST_PANEL]

    def find(self, name: str) -> tuple[Bridge, str]:
        """Return the bridge whose user a public name is, and the name on that panel.

        An unscoped name is a user of the panel to which its reports are charged.
        """
        panel, key = self.store.placement.place_of(name)
        if panel in self.by_name:
            return self.by_name[panel], key
        return self.first, name

    async def run(self) -> None:
        """Read the feed and settle the users of all panels until cancelled.

        Raises the error that a loop did not handle, after the other loops were cancelled.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.feed_reader.run())
                tasks.create_task(self.rollback_check.run())
                if self.events_purge:
                    tasks.create_task(self.events_purge.run())
                for name, bridge in self.by_name.items():
                    tasks.create_task(bridge.reconciler.run())
                    if len(self.by_name) > 1:
                        tasks.create_task(self.duplicate_names.run(name))
        except ExceptionGroup as group:
            raise group.exceptions[0] from group

    async def run_all(self) -> None:
        """Do the same, and write to InfluxDB if configured, until cancelled or not leading."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.run())
                if self.time_series:
                    tasks.create_task(self.time_series.run())
        except ExceptionGroup as group:
            raise group.exceptions[0] from group

    async def run_once(self) -> PassResult:
        """Read the feed to its end and settle every user of every panel once.

        Raises the collector's error when it cannot be reached, and a panel's error after the other
        panels were settled.
        """
        await self.feed_reader.to_end()
        if len(self.by_name) > 1:
            await self.duplicate_names.once(at=self.clock())
        results = await asyncio.gather(
            *(bridge.reconciler.pass_over_all() for bridge in self.by_name.values()),
            return_exceptions=True,
        )
        failures = [each for each in results if isinstance(each, BaseException)]
        failures.sort(key=lambda each: isinstance(each, BridgeError))  # a defect is raised first
        if failures:
            raise failures[0]
        passes = [each for each in results if isinstance(each, PassResult)]
        with contextlib.suppress(CollectorRefusedError):  # a version that keeps no positions
            await self.rollback_check.report_position()
        return PassResult(
            users=sum(each.users for each in passes),
            failures=sum(each.failures for each in passes),
            seconds=max(each.seconds for each in passes),
            suspension_text="; ".join(
                each.suspension_text for each in passes if each.suspension_text
            )
            or None,
        )

    async def rebase(
        self, *, actor: str, is_restored: bool = False
    ) -> list[tuple[Bridge, Account]]:
        """Accept the ledger as it is now; each held user keeps its external usage.

        Used after a ledger was restored or replaced. Reads the feed from the start, then moves each
        baseline by the change of the total. Returns the accounts whose baseline moved.

        When the store is suspended as an older one, or with `is_restored`, each account is also
        updated from its panel; all panels have to be reachable for that.
        """
        await self.rollback_check.check()
        if is_restored:
            self.rollback_check.suspend("the operator says that the store is a restored one")
        is_new_ledger = await self.feed_reader.adopt_ledger()
        is_suspended = bool(self.store.suspended)
        moved: list[tuple[Bridge, Account]] = []
        for bridge in self.by_name.values():
            if is_suspended:
                accounts = await bridge.actions.take_over(
                    actor=actor, is_ledger_newer=self.rollback_check.is_behind
                )
            else:
                accounts = bridge.actions.rebase(actor=actor, is_new_ledger=is_new_ledger)
            moved += [(bridge, account) for account in accounts]
        self.store.begin_shared_periods_as_rebased()
        if is_suspended:
            self.store.resume()
        return moved

    async def rebase_beside_the_loops(
        self, *, actor: str, is_restored: bool
    ) -> list[tuple[Bridge, Account]]:
        """Rebase while the loops are paused; a pass over all users follows.

        Raises ReleasedError after a release, and PausedError while a rebase or a release is
        under way.
        """
        self.standstill.refuse_if_released()
        async with self.standstill.hold("a rebase"):
            moved = await self.rebase(actor=actor, is_restored=is_restored)
            for bridge in self.by_name.values():
                bridge.reconciler.begin_pass()
        return moved

    async def rebuild(
        self, *, from_store: str | None, is_carried_out: bool, actor: str
    ) -> list[tuple[Bridge, Rebuilding]]:
        """Read quotas, baselines and disabled users from the note lines of all panels' users.

        Used after a store was lost, or to take over from another bridge. Without `is_carried_out`
        nothing is stored. Raises BridgeError where a note has lines of several stores and
        `from_store` names none of them, and where quotas span panels.
        """
        if self.store.shares_quotas:
            raise BridgeError(
                "with BRIDGE_QUOTAS_SPAN_PANELS a note line has only one panel's part of a shared "
                "quota: rebuild with the setting off, and turn it on again afterwards"
            )
        await self.feed_reader.to_end()
        found = [
            (
                bridge,
                await rebuilding.read(
                    bridge.store,
                    bridge.panel,
                    from_store=from_store,
                    clock=self.clock,
                    actor=actor,
                ),
            )
            for bridge in self.by_name.values()
        ]
        if is_carried_out:
            for bridge, each in found:
                rebuilding.keep(bridge.store, each, at=self.clock())
            if self.store.suspended:
                self.store.resume()
        return found

    async def release(
        self, *, changes_panel: bool = False
    ) -> AsyncIterator[tuple[Bridge, Account, bool]]:
        """Give every user its quota and status back; yield each, and whether it was written to.

        Raises ObservingError while the bridge only observes, unless `changes_panel`.
        """
        for bridge in self.by_name.values():
            async for account, was_written in bridge.actions.release(changes_panel=changes_panel):
                yield bridge, account, was_written

    async def release_beside_the_loops(self, *, actor: str, changes_panel: bool) -> list[str]:
        """Release while the loops are paused; they stay paused until the process ends.

        Returns the names of the users that were written to.

        If it fails before the first user has its quota back, the loops continue. If it fails later,
        they stay paused, and the release can be repeated.
        """
        usernames: list[str] = []
        async with self.standstill.hold("a release"):
            async for bridge, account, was_written in self.release(changes_panel=changes_panel):
                self.standstill.released = (
                    "a release was begun and is not finished; the bridge changes nothing until it "
                    "is restarted: run marzban-bridge release again"
                )
                if was_written:
                    usernames.append(bridge.store.placement.public_name(account.username))
                    log.info(
                        "released user=%s quota and status are as the admin set them", usernames[-1]
                    )
            event = Event(kind="released", text=RELEASED, actor=actor)
            self.store.events.record("", event, at=self.clock())
            self.standstill.released = RELEASED
        return usernames

    async def reset_everybody(
        self, *, actor: str, changes_panel: bool = False
    ) -> Mapping[str, int | BridgeError]:
        """Reset the users of the bridge's own admin on every panel, through the panel's own call.

        Returns, by panel, the number of accounts reset, or the error; a panel that fails does not
        stop the others. All requests are stored before the first panel is called: otherwise a user
        who shares a quota would be reset twice, once because the user on the other panel was reset,
        and again with all. Raises PausedError and ReleasedError.
        """
        results: dict[str, int | BridgeError] = {}
        requested: dict[str, list[Account]] = {}
        with contextlib.ExitStack() as stack:
            for bridge in self.by_name.values():
                stack.enter_context(bridge.actions.resetting_all())
            for name, bridge in self.by_name.items():
                try:
                    caller = await bridge.actions.own_admin(changes_panel=changes_panel)
                    requested[name] = await bridge.actions.request_reset_all(
                        bearer=None, caller=caller, actor=actor
                    )
                except BridgeError as error:
                    results[name] = error
            for name, accounts in requested.items():
                actions = self.by_name[name].actions
                try:
                    await actions.call_reset_all(accounts, bearer=None, actor=actor)
                    results[name] = len(accounts)
                except BridgeError as error:
                    results[name] = error
        for name, accounts in requested.items():
            self.by_name[name].queue.add(each.key for each in accounts)
        return results


def first_failure(results: Mapping[str, int | BridgeError]) -> BridgeError | None:
    """Return the first panel's error; None if none failed."""
    return next((each for each in results.values() if isinstance(each, BridgeError)), None)
