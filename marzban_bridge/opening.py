"""Constructs the parts of a bridge and connects them; no part is changed after construction."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import httpx

from marzban_bridge.bridge import Bridge, Bridges
from marzban_bridge.clock import Clock, utc_now
from marzban_bridge.config.open_panel import open_panel
from marzban_bridge.config.panels_file import PanelSettings, load_panels
from marzban_bridge.config.settings import Settings
from marzban_bridge.feed.client import CollectorFeed
from marzban_bridge.metrics import Metrics
from marzban_bridge.panels.dialect import Dialect
from marzban_bridge.panels.names import FIRST_PANEL
from marzban_bridge.panels.port import Panel
from marzban_bridge.panels.write_guard import WriteGuard
from marzban_bridge.reconcile.actions import Actions
from marzban_bridge.reconcile.events_purge import EventsPurge
from marzban_bridge.reconcile.feed_reader import FeedReader
from marzban_bridge.reconcile.loop import Reconciler
from marzban_bridge.reconcile.panel_health import PanelHealth
from marzban_bridge.reconcile.reseller_actions import ResellerActions
from marzban_bridge.reconcile.reseller_watch import ResellerWatch
from marzban_bridge.reconcile.standstill import Standstill
from marzban_bridge.reconcile.trust.duplicate_names import DuplicateNameScan
from marzban_bridge.reconcile.trust.panel_rebase import PanelRebase
from marzban_bridge.reconcile.trust.rollback_check import RollbackCheck
from marzban_bridge.reconcile.trust.twin_panels import TwinPanels
from marzban_bridge.reconcile.unknown_names import UnknownNames
from marzban_bridge.reconcile.users.evaluation import Evaluator
from marzban_bridge.reconcile.users.parts import UserParts, wired
from marzban_bridge.reconcile.work_queue import CorrectionQueue, OtherQueues, WorkQueue
from marzban_bridge.store.identity import panel_mark
from marzban_bridge.store.metas import LAST_WEBHOOK
from marzban_bridge.store.open import file_of
from marzban_bridge.store.panel_identity import check_panels
from marzban_bridge.store.store import Store
from marzban_bridge.timeseries.open import open_writer
from marzban_bridge.timeseries.writer import TimeSeriesWriter

Transports = Mapping[str, httpx.AsyncBaseTransport] | httpx.AsyncBaseTransport | None


@contextlib.asynccontextmanager
async def open_bridges(
    settings: Settings,
    *,
    clock: Clock = utc_now,
    panel_transport: Transports = None,
    collector_transport: httpx.AsyncBaseTransport | None = None,
    store: Store | None = None,
    guard: WriteGuard | None = None,
    standstill: Standstill | None = None,
) -> AsyncIterator[Bridges]:
    """Open the store (unless given) and the connections; close on exit what was opened here.

    No loop is started. Raises SettingsError when a panel is not configured, and StoreError when the
    store cannot be used or belongs to other panels. `panel_transport` replaces the network to the
    panels, by name or for all; `guard` is called before each write to a panel; `standstill` pauses
    the loops, and outlives a change of leadership.
    """
    configured = load_panels(settings)
    standstill = standstill or Standstill()
    async with contextlib.AsyncExitStack() as stack:
        if store is None:
            store = Store(file_of(settings))
            stack.callback(store.close)
        check_panels(store, configured)
        names = [each.name for each in configured]
        store.configure(names, shares_quotas=settings.quotas_span_panels)
        feed = CollectorFeed(
            settings.collector_url,
            admin_key=settings.collector_admin_key,
            transport=collector_transport,
        )
        stack.push_async_callback(feed.close)
        metrics = {name: _metrics_of(store.of(name), clock) for name in names}
        _introduce(metrics[FIRST_PANEL], settings, store)
        panels = open_panels(configured, stack, transport=panel_transport, guard=guard)
        time_series = open_writer(
            settings,
            configured,
            panels,
            store=store,
            clock=clock,
            metrics=metrics[FIRST_PANEL],
            standstill=standstill,
        )
        if time_series:
            stack.callback(time_series.close)
        yield _wired(
            settings,
            configured,
            panels,
            store=store,
            feed=feed,
            time_series=time_series,
            metrics=metrics,
            standstill=standstill,
            clock=clock,
        )


def open_panels(
    configured: Sequence[PanelSettings],
    stack: contextlib.AsyncExitStack,
    *,
    transport: Transports = None,
    guard: WriteGuard | None = None,
) -> dict[str, Panel]:
    """Return the panels by name; `stack` closes them. Nothing is asked of them yet."""
    panels: dict[str, Panel] = {}
    for each in configured:
        panels[each.name] = open_panel(
            each, transport=_transport_to(each.name, transport), guard=guard
        )
        stack.push_async_callback(panels[each.name].close)
    return panels


def _wired(
    settings: Settings,
    configured: Sequence[PanelSettings],
    panels: Mapping[str, Panel],
    *,
    store: Store,
    feed: CollectorFeed,
    time_series: TimeSeriesWriter | None,
    metrics: Mapping[str, Metrics],
    standstill: Standstill,
    clock: Clock,
) -> Bridges:
    """Construct the parts in the order of their dependencies."""
    rollback_check = RollbackCheck(
        store=store, feed=feed, clock=clock, panel=panel_mark(settings.marzban_url)
    )
    rollback_check.check_store()
    corrections = CorrectionQueue(store.usage.corrected_names())
    evaluators = {
        each.name: Evaluator(
            store=store.of(each.name),
            clock=clock,
            enforcement=settings.enforcement,
            keeps_next_plan=settings.keeps_next_plan,
            uses_notes=settings.uses_notes,
            typed_limits=each.typed_limits,
            dialect=_dialect_of(panels[each.name]),
        )
        for each in configured
    }
    unknown = {name: UnknownNames(pass_seconds=settings.pass_seconds) for name in panels}
    queues = {name: WorkQueue(users=evaluators[name], names=unknown[name]) for name in panels}
    elsewhere = {
        name: OtherQueues([queues[other] for other in panels if other != name]) for name in panels
    }
    users = {
        each.name: wired(
            settings,
            store=store.of(each.name),
            panel=panels[each.name],
            write_seconds=2 * each.timeout_seconds,
            evaluator=evaluators[each.name],
            unknown=unknown[each.name],
            queue=queues[each.name],
            elsewhere=elsewhere[each.name],
            corrections=corrections,
            clock=clock,
            metrics=metrics[each.name],
        )
        for each in configured
    }
    duplicate_names = DuplicateNameScan(
        panels, store=store, standstill=standstill, clock=clock, queues=queues
    )
    shared = _Shared(
        settings=settings,
        feed=feed,
        rollback_check=rollback_check,
        twins=TwinPanels(
            panels, store=store, clock=clock, metrics=metrics, on_newest=duplicate_names.take_newest
        ),
        standstill=standstill,
        clock=clock,
    )
    return Bridges(
        by_name={
            each.name: _bridge_of(
                each,
                shared,
                store=store.of(each.name),
                panel=panels[each.name],
                queue=queues[each.name],
                elsewhere=elsewhere[each.name],
                parts=users[each.name],
                metrics=metrics[each.name],
            )
            for each in configured
        },
        settings=settings,
        store=store,
        clock=clock,
        feed=feed,
        feed_reader=FeedReader(
            store=store,
            feed=feed,
            rollback_check=rollback_check,
            settlers={name: parts.settler for name, parts in users.items()},
            queues=queues,
            corrections=corrections,
            metrics=metrics[FIRST_PANEL],
            standstill=standstill,
        ),
        rollback_check=rollback_check,
        duplicate_names=duplicate_names,
        time_series=time_series,
        events_purge=EventsPurge(
            store=store,
            rollback_check=rollback_check,
            written_through=time_series.events_through if time_series else None,
            retention=timedelta(days=settings.events_retention_days),
            standstill=standstill,
            clock=clock,
        )
        if settings.events_retention_days
        else None,
        standstill=standstill,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    """What the bridges of all panels use together."""

    settings: Settings
    feed: CollectorFeed
    rollback_check: RollbackCheck
    twins: TwinPanels
    standstill: Standstill
    clock: Clock


def _bridge_of(
    configured: PanelSettings,
    shared: _Shared,
    *,
    store: Store,
    panel: Panel,
    queue: WorkQueue,
    elsewhere: OtherQueues,
    parts: UserParts,
    metrics: Metrics,
) -> Bridge:
    """Construct the bridge of one panel; `parts` are those that settle its users."""
    return Bridge(
        panel_settings=configured,
        store=store,
        panel=panel,
        queue=queue,
        settler=parts.settler,
        reconciler=Reconciler(
            store=store,
            health=PanelHealth(
                store=store,
                panel=panel,
                twins=shared.twins,
                metrics=metrics,
                standstill=shared.standstill,
            ),
            batches=parts.batches,
            reader=parts.reader,
            evaluator=parts.evaluator,
            trust=parts.trust,
            queue=queue,
            twins=shared.twins,
            resellers=ResellerWatch(
                store=store,
                panel=panel,
                queue=queue,
                set_aside=parts.reader.set_aside,
                clock=shared.clock,
                metrics=metrics,
            ),
            rollback_check=shared.rollback_check,
            clock=shared.clock,
            metrics=metrics,
            pass_seconds=shared.settings.pass_seconds,
            standstill=shared.standstill,
        ),
        actions=Actions(
            store=store,
            panel=panel,
            feed=shared.feed,
            settler=parts.settler,
            reader=parts.reader,
            evaluator=parts.evaluator,
            trust=parts.trust,
            writes=parts.writes,
            resets=parts.resets,
            queue=queue,
            enforcement=shared.settings.enforcement,
            clock=shared.clock,
            standstill=shared.standstill,
        ),
        resellers=ResellerActions(
            store=store,
            panel=panel,
            queue=queue,
            clock=shared.clock,
            standstill=shared.standstill,
        ),
        panel_rebase=PanelRebase(
            store=store,
            reader=parts.reader,
            evaluator=parts.evaluator,
            census=parts.trust.census,
            queue=queue,
            elsewhere=elsewhere,
            clock=shared.clock,
            standstill=shared.standstill,
        ),
        metrics=metrics,
    )


def _dialect_of(panel: Panel) -> Callable[[], Dialect]:
    """Return a getter of the panel's dialect: it is known once the panel was asked."""
    return lambda: panel.dialect


def _transport_to(panel: str, given: Transports) -> httpx.AsyncBaseTransport | None:
    return given.get(panel) if isinstance(given, Mapping) else given


def _introduce(metrics: Metrics, settings: Settings, store: Store) -> None:
    """Set the metrics that are about the whole process."""
    metrics.introduce(public_url=settings.public_url, enforcement=settings.enforcement.value)
    metrics.leads.set(1)
    metrics.store_suspended.set_function(lambda: store.suspended is not None)


def _metrics_of(store: Store, clock: Clock) -> Metrics:
    metrics = Metrics()
    metrics.last_webhook_timestamp_seconds.set(
        float(store.meta(f"{LAST_WEBHOOK}{store.panel}") or 0)
    )
    metrics.watch_resets(
        pending=lambda: store.accounts.pending_resets().count,
        oldest_seconds=lambda: _oldest_reset_seconds(store, clock()),
    )
    return metrics


def _oldest_reset_seconds(store: Store, now: datetime) -> float:
    since = store.accounts.pending_resets().oldest_requested_at
    return max(0.0, (now - since).total_seconds()) if since else 0.0
