"""What the bridges of all panels do together: run, make a pass, accept a restored ledger or store.

A panel that is down holds up none of the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from marzban_bridge.api.context import Bridge, Bridges
from marzban_bridge.errors import BridgeError, CollectorRefusedError
from marzban_bridge.quota.account import Account, Event
from marzban_bridge.reconcile import rebuilding
from marzban_bridge.reconcile.pass_result import PassResult
from marzban_bridge.reconcile.rebuilding import Rebuilding

log = logging.getLogger(__name__)

RELEASED = (
    "all users have their quotas back, and the bridge stands still until it is restarted: stop it "
    "to uninstall it, or restart it to have the limits published again"
)


async def run(bridges: Bridges) -> None:
    """Read the feed and settle the users of all panels until cancelled.

    Raises what one of the loops could not work around, and has ended the others then.
    """
    reading = bridges.first.reading
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(reading.run())
            tasks.create_task(reading.witness.run())
            for name, bridge in bridges.by_name.items():
                tasks.create_task(bridge.reconciler.run())
                if len(bridges.by_name) > 1:
                    tasks.create_task(bridges.roll_call.run(name))
    except ExceptionGroup as group:
        raise group.exceptions[0] from group


async def run_all(bridges: Bridges) -> None:
    """Do the same and write to InfluxDB, where there is one, until cancelled or not leading."""
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(run(bridges))
            if snapshots := bridges.first.snapshots:
                tasks.create_task(snapshots.run())
    except ExceptionGroup as group:
        raise group.exceptions[0] from group


async def run_once(bridges: Bridges) -> PassResult:
    """Read the feed to its end and settle every user of every panel once.

    Raises the collector's error when it cannot be reached, and a panel's once the others are done.
    """
    reading = bridges.first.reading
    await reading.to_end()
    if len(bridges.by_name) > 1:
        await bridges.roll_call.once(at=bridges.first.clock())
    results = await asyncio.gather(
        *(bridge.reconciler.pass_over_all() for bridge in bridges.by_name.values()),
        return_exceptions=True,
    )
    failures = [each for each in results if isinstance(each, BaseException)]
    failures.sort(key=lambda each: isinstance(each, BridgeError))  # a defect is worse
    if failures:
        raise failures[0]
    passes = [each for each in results if isinstance(each, PassResult)]
    with contextlib.suppress(CollectorRefusedError):  # an older one cannot vouch
        await reading.witness.leave_word()
    return PassResult(
        users=sum(each.users for each in passes),
        failures=sum(each.failures for each in passes),
        seconds=max(each.seconds for each in passes),
        doubt="; ".join(each.doubt for each in passes if each.doubt) or None,
    )


async def rebase(
    bridges: Bridges, *, actor: str, is_restored: bool = False
) -> list[tuple[Bridge, Account]]:
    """Accept the ledger as it is now, keeping each held user's external usage as it was.

    For after a restored or replaced ledger. Reads the feed from the start, then moves each baseline
    by what the total changed. Returns the accounts that moved.

    When the store itself is an older one, or `is_restored` says so, each account is put in step
    with its panel; all panels have to be reachable for that.
    """
    reading, store = bridges.first.reading, bridges.first.store
    await reading.witness.check()
    if is_restored:
        reading.witness.doubt("the operator says that the store is a restored one")
    is_new_ledger = await reading.adopt_ledger()
    is_in_doubt = bool(store.doubt)
    moved: list[tuple[Bridge, Account]] = []
    for bridge in bridges.by_name.values():
        if is_in_doubt:
            accounts = await bridge.actions.take_over(
                actor=actor, is_ledger_newer=reading.witness.is_behind
            )
        else:
            accounts = bridge.actions.rebase(actor=actor, is_new_ledger=is_new_ledger)
        moved += [(bridge, account) for account in accounts]
    store.shared_quotas.loosen()
    if is_in_doubt:
        store.end_doubt()
    return moved


async def rebase_beside_the_loops(
    bridges: Bridges, *, actor: str, is_restored: bool
) -> list[tuple[Bridge, Account]]:
    """Do the same while the loops stand still, and have them look at everybody afterwards.

    Raises ReleasedError after a release, and StandingStillError while something else is under way.
    """
    bridges.standstill.refuse_if_released()
    async with bridges.standstill.hold("a rebase"):
        moved = await rebase(bridges, actor=actor, is_restored=is_restored)
        for bridge in bridges.by_name.values():
            bridge.reconciler.begin_pass()
    return moved


async def rebuild(
    bridges: Bridges, *, from_store: str | None, is_carried_out: bool, actor: str
) -> list[tuple[Bridge, Rebuilding]]:
    """Take quotas, baselines and who was disabled from the lines in users' notes.

    For after a lost store, or where a bridge is to go on in another's place; without
    `is_carried_out` nothing is stored. Raises BridgeError where a note has lines of several
    stores and `from_store` does not say which, and where quotas span panels.
    """
    reading, store = bridges.first.reading, bridges.first.store
    if store.shares_quotas:
        raise BridgeError(
            "with BRIDGE_QUOTAS_SPAN_PANELS a line says what one panel was told of a quota that "
            "all share: rebuild with the setting off, and turn it on again afterwards"
        )
    await reading.to_end()
    found = [
        (
            bridge,
            await rebuilding.read(
                bridge.store,
                bridge.panel,
                from_store=from_store,
                clock=bridge.clock,
                actor=actor,
            ),
        )
        for bridge in bridges.by_name.values()
    ]
    if is_carried_out:
        for bridge, each in found:
            rebuilding.keep(bridge.store, each, at=bridge.clock())
        if store.doubt:
            store.end_doubt()
    return found


async def release(
    bridges: Bridges, *, changes_panel: bool = False
) -> AsyncIterator[tuple[Bridge, Account, bool]]:
    """Give every user back its quota and status; yield each with whether that took a write.

    Raises ObservingError while the bridge only observes, unless `changes_panel`.
    """
    for bridge in bridges.by_name.values():
        async for account, was_written in bridge.actions.release(changes_panel=changes_panel):
            yield bridge, account, was_written


async def release_beside_the_loops(
    bridges: Bridges, *, actor: str, changes_panel: bool
) -> list[str]:
    """Do the same while the loops stand still, as they do from then on; return who was written to.

    A release that fails before the first user has its quota back has no consequences; one that
    fails later leaves the loops standing still, to be asked for again.
    """
    store, standstill = bridges.first.store, bridges.standstill
    usernames: list[str] = []
    async with standstill.hold("a release"):
        async for bridge, account, was_written in release(bridges, changes_panel=changes_panel):
            standstill.released = (
                "a release was begun and is not finished; the bridge stands still until it is "
                "restarted: run marzban-bridge release again"
            )
            if was_written:
                usernames.append(bridge.store.placement.public_name(account.username))
                log.info("released user=%s quota and status are the admin's again", usernames[-1])
        event = Event(kind="released", text=RELEASED, actor=actor)
        store.events.record("", event, at=bridges.first.clock())
        standstill.released = RELEASED
    return usernames
