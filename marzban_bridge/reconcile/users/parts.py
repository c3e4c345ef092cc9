"""Wires what settles the users of one panel: each part is given what it works with."""

from __future__ import annotations

from dataclasses import dataclass

from marzban_bridge.clock import Clock
from marzban_bridge.config.settings import Settings
from marzban_bridge.metrics import Metrics
from marzban_bridge.panels.port import Panel
from marzban_bridge.quota.account import Enforcement
from marzban_bridge.reconcile.trust.census import Census
from marzban_bridge.reconcile.trust.panel_trust import PanelTrust
from marzban_bridge.reconcile.trust.second_bridge import SecondBridge
from marzban_bridge.reconcile.unknown_names import UnknownNames
from marzban_bridge.reconcile.users.batches import BatchSettler
from marzban_bridge.reconcile.users.concurrency import ConcurrencyLimit
from marzban_bridge.reconcile.users.evaluation import Evaluator
from marzban_bridge.reconcile.users.intake import UserIntake
from marzban_bridge.reconcile.users.locks import UserLocks
from marzban_bridge.reconcile.users.reader import UserReader
from marzban_bridge.reconcile.users.resets import UserResets
from marzban_bridge.reconcile.users.settler import Settler
from marzban_bridge.reconcile.users.writes import UserWrites
from marzban_bridge.reconcile.work_queue import CorrectionQueue, OtherQueues, WorkQueue
from marzban_bridge.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class UserParts:
    """What there is for the users of one panel."""

    evaluator: Evaluator
    reader: UserReader
    trust: PanelTrust
    writes: UserWrites
    resets: UserResets
    settler: Settler
    batches: BatchSettler


def wired(
    settings: Settings,
    *,
    store: Store,
    panel: Panel,
    write_seconds: float,
    evaluator: Evaluator,
    unknown: UnknownNames,
    queue: WorkQueue,
    elsewhere: OtherQueues,
    corrections: CorrectionQueue,
    clock: Clock,
    metrics: Metrics,
) -> UserParts:
    """Make the parts of one panel; one write to it takes at most `write_seconds`."""
    only_observes = settings.enforcement is Enforcement.OBSERVE
    reader = UserReader(
        store=store,
        panel=panel,
        clock=clock,
        metrics=metrics,
        unknown=unknown,
        elsewhere=elsewhere,
    )
    limit = ConcurrencyLimit()
    writes = UserWrites(
        store=store,
        panel=panel,
        clock=clock,
        longest_seconds=write_seconds,
        # Who only observes publishes nothing that a line could be about.
        uses_notes=settings.uses_notes and not only_observes,
        limit=limit,
    )
    resets = UserResets(
        store=store,
        panel=panel,
        clock=clock,
        metrics=metrics,
        keeps_next_plan=settings.keeps_next_plan,
    )
    census = Census(
        store=store,
        panel=panel,
        clock=clock,
        metrics=metrics,
        own_line=lambda user: evaluator.lines(user).own,
    )
    second_bridge = SecondBridge(
        store=store,
        lines_of=evaluator.lines,
        write_line=writes.claim,
        clock=clock,
        metrics=metrics,
        only_observes=only_observes,
    )
    trust = PanelTrust(store=store, census=census, second_bridge=second_bridge)
    locks = UserLocks()
    intake = UserIntake(
        store=store,
        evaluator=evaluator,
        trust=trust,
        resets=resets,
        unknown=unknown,
        locks=locks,
        queue=queue,
        elsewhere=elsewhere,
        corrections=corrections,
        clock=clock,
        metrics=metrics,
    )
    settler = Settler(
        store=store,
        panel=panel,
        evaluator=evaluator,
        reader=reader,
        trust=trust,
        intake=intake,
        writes=writes,
        resets=resets,
        locks=locks,
        elsewhere=elsewhere,
        clock=clock,
        metrics=metrics,
    )
    return UserParts(
        evaluator=evaluator,
        reader=reader,
        trust=trust,
        writes=writes,
        resets=resets,
        settler=settler,
        batches=BatchSettler(
            panel=panel,
            intake=intake,
            settler=settler,
            reader=reader,
            evaluator=evaluator,
            queue=queue,
            limit=limit,
            named=store.placement.public_name,
            clock=clock,
            metrics=metrics,
        ),
    )
