"""The wired parts of a running bridge: what all panels share, and what there is for each.

And what is done with all of them: run, make a pass, accept a restored ledger or store, reset and
release everybody. A panel that is down holds up none of the others.
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
from marzban_bridge.reconcile.feed_reader import FeedReader
from marzban_bridge.reconcile.loop import Reconciler
from marzban_bridge.reconcile.pass_result import PassResult
from marzban_bridge.reconcile.rebuilding import Rebuilding
from marzban_bridge.reconcile.standstill import Standstill
from marzban_bridge.reconcile.trust.duplicate_names import DuplicateNameScan
from marzban_bridge.reconcile.trust.panel_rebase import PanelRebase
from marzban_bridge.reconcile.trust.rollback_check import RollbackCheck
from marzban_bridge.reconcile.work_queue import WorkQueue
from marzban_bridge.store.store import Store
from marzban_bridge.timeseries.writer import TimeSeriesWriter

log = logging.getLogger(__name__)

RELEASED = (
    "all users have their quotas back, and the bridge stands still until it is restarted: stop it "
    "to uninstall it, or restart it to have the limits published again"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """What there is for one panel."""

    panel_settings: PanelSettings
    store: Store
    """The bridge's memory of this panel."""
    panel: Panel
    queue: WorkQueue
    reconciler: Reconciler
    actions: Actions
    panel_rebase: PanelRebase
    metrics: Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridges:
    """One process's bridges: one for each panel, on one store, one feed and one InfluxDB."""

    by_name: Mapping[str, Bridge]
    """In the order in which names are looked for in them."""
    settings: Settings
    store: Store
    clock: Clock
    feed: CollectorFeed
    feed_reader: FeedReader
    rollback_check: RollbackCheck
    duplicate_names: DuplicateNameScan
    time_series: TimeSeriesWriter | None
    """None when no InfluxDB is configured."""
    standstill: Standstill

    @property
    def first(self) -> Bridge:
        """The bridge of the panel of `MARZBAN_URL`: that of requests which name no panel."""
        return self.by_name[FIRST_PANEL]

    def find(self, name: str) -> tuple[Bridge, str]:
        """Return whose user a name is, as it is reported and shown in dashboards, and its name.

        A name alone is a user of the panel for which what is reported of it counts.
        """
        panel, key = self.store.placement.place_of(name)
        if panel in self.by_name:
            return self.by_name[panel], key
        return self.first, name

    async def run(self) -> None:
        """Read the feed and settle the users of all panels until cancelled.

        Raises what one of the loops could not work around, and has ended the others then.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.feed_reader.run())
                tasks.create_task(self.rollback_check.run())
                for name, bridge in self.by_name.items():
                    tasks.create_task(bridge.reconciler.run())
                    if len(self.by_name) > 1:
                        tasks.create_task(self.duplicate_names.run(name))
        except ExceptionGroup as group:
            raise group.exceptions[0] from group

    async def run_all(self) -> None:
        """Do the same and write to InfluxDB, where there is one, until cancelled or not leading."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.run())
                if self.time_series:
                    tasks.create_task(self.time_series.run())
        except ExceptionGroup as group:
            raise group.exceptions[0] from group

    async def run_once(self) -> PassResult:
        """Read the feed to its end and settle every user of every panel once.

        Raises the collector's error when it cannot be reached, and a panel's once the others are
        done.
        """
        await self.feed_reader.to_end()
        if len(self.by_name) > 1:
            await self.duplicate_names.once(at=self.clock())
        results = await asyncio.gather(
            *(bridge.reconciler.pass_over_all() for bridge in self.by_name.values()),
            return_exceptions=True,
        )
        failures = [each for each in results if isinstance(each, BaseException)]
        failures.sort(key=lambda each: isinstance(each, BridgeError))  # a defect is worse
        if failures:
            raise failures[0]
        passes = [each for each in results if isinstance(each, PassResult)]
        with contextlib.suppress(CollectorRefusedError):  # an older one cannot vouch
            await self.rollback_check.report_position()
        return PassResult(
            users=sum(each.users for each in passes),
            failures=sum(each.failures for each in passes),
            seconds=max(each.seconds for each in passes),
            doubt="; ".join(each.doubt for each in passes if each.doubt) or None,
        )

    async def rebase(
        self, *, actor: str, is_restored: bool = False
    ) -> list[tuple[Bridge, Account]]:
        """Accept the ledger as it is now, keeping each held user's external usage as it was.

        For after a restored or replaced ledger. Reads the feed from the start, then moves each
        baseline by what the total changed. Returns the accounts that moved.

        When the store itself is an older one, or `is_restored` says so, each account is put in step
        with its panel; all panels have to be reachable for that.
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
        self.store.shared_quotas.loosen()
        if is_suspended:
            self.store.resume()
        return moved

    async def rebase_beside_the_loops(
        self, *, actor: str, is_restored: bool
    ) -> list[tuple[Bridge, Account]]:
        """Do the same while the loops stand still, and have them look at everybody afterwards.

        Raises ReleasedError after a release, and StandingStillError while something else is under
        way.
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
        """Take quotas, baselines and who was disabled from the lines in users' notes.

        For after a lost store, or where a bridge is to go on in another's place; without
        `is_carried_out` nothing is stored. Raises BridgeError where a note has lines of several
        stores and `from_store` does not say which, and where quotas span panels.
        """
        if self.store.shares_quotas:
            raise BridgeError(
                "with BRIDGE_QUOTAS_SPAN_PANELS a line says what one panel was told of a quota "
                "that all share: rebuild with the setting off, and turn it on again afterwards"
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
        """Give every user back its quota and status; yield each with whether that took a write.

        Raises ObservingError while the bridge only observes, unless `changes_panel`.
        """
        for bridge in self.by_name.values():
            async for account, was_written in bridge.actions.release(changes_panel=changes_panel):
                yield bridge, account, was_written

    async def release_beside_the_loops(self, *, actor: str, changes_panel: bool) -> list[str]:
        """Do the same while the loops stand still, as they do from then on.

        Returns the names of the users that were written to.

        A release that fails before the first user has its quota back has no consequences; one that
        fails later leaves the loops standing still, to be asked for again.
        """
        usernames: list[str] = []
        async with self.standstill.hold("a release"):
            async for bridge, account, was_written in self.release(changes_panel=changes_panel):
                self.standstill.released = (
                    "a release was begun and is not finished; the bridge stands still until it is "
                    "restarted: run marzban-bridge release again"
                )
                if was_written:
                    usernames.append(bridge.store.placement.public_name(account.username))
                    log.info(
                        "released user=%s quota and status are the admin's again", usernames[-1]
                    )
            event = Event(kind="released", text=RELEASED, actor=actor)
            self.store.events.record("", event, at=self.clock())
            self.standstill.released = RELEASED
        return usernames

    async def reset_everybody(
        self, *, actor: str, changes_panel: bool = False
    ) -> Mapping[str, int | BridgeError]:
        """Reset the users of the bridge's own admin on every panel, through the panel's own call.

        Returns, by panel, how many had accounts, or why that panel's were not reset; a panel that
        fails keeps none of the others from it. All requests are stored before the first panel is
        called: else a user who shares a quota would be reset because the one on another panel was,
        and then once more with all. Raises StandingStillError and ReleasedError.
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
    """Return why the first panel that failed did; None where none did."""
    return next((each for each in results.values() if isinstance(each, BridgeError)), None)
