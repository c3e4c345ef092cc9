"""The running agent: one task that polls each source, and one sender per lane of the spool."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from collector.agent.config.settings import Config, Source
from collector.agent.errors import SourceError
from collector.agent.fetch import local_http, read
from collector.agent.polling import Gain, absorb
from collector.agent.requests import ReadStream
from collector.agent.sources.kinds import KINDS
from collector.agent.state.lock import HEARTBEAT_SECONDS, StateLock
from collector.agent.state.state import State
from collector.agent.stream.follow import follow
from collector.client.async_wire import AsyncWire, deliver_forever
from collector.client.errors import SpoolError
from collector.client.sending.delivery import (
    Delivery,
    Empty,
    Parcel,
    Progress,
    Reports,
    Setback,
    Step,
)
from collector.client.spool.spool import REPORTS, Spool
from collector.runtime.cancelling import raise_if_cancelled
from collector.runtime.outage import Outage
from collector.runtime.pace import Pace
from collector.runtime.wall_clock import wall_clock_millis

log = logging.getLogger(__name__)

SEND_TIMEOUT_SECONDS = 30.0
ATTEMPT_SECONDS = 90.0
"""Timeout of an attempt, above that of a request; after it the attempt is cancelled and retried."""


@dataclass(slots=True)
class Sender:
    """Sends one lane of the spool to the collector; logs when that begins to fail or work."""

    name: str
    wire: AsyncWire
    delivery: Delivery
    note_problem: Callable[[str, str | None], None]
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    tell: Callable[[], None] = lambda: None
    """Called when the problem has changed."""
    sent: int = 0
    outage: Outage = field(init=False)

    def __post_init__(self) -> None:
        self.outage = _outage(f"delivery_{{}} lane={self.name}", "the collector %s")

    @property
    def problem(self) -> str | None:
        """Why the last attempt failed, None after a success; empty before the first attempt.

        While it is empty, `status` shows the problem stored by the previous agent.
        """
        return self.outage.reason

    async def attempt(self) -> Step:
        """Make one attempt and store its problem. Raises SpoolError."""
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                step = await self.wire.drive(self.delivery.attempt())
        except SpoolError as error:
            self._note(f"took the reports, but the spool cannot be updated: {error}")
            raise
        except TimeoutError:
            step = Setback(f"did not answer within {ATTEMPT_SECONDS:g} s; sending is retried")
        except Exception as error:  # an unexpected error must not end this task, nor the others
            log.exception("sending_failed lane=%s: it is retried", self.name)
            step = Setback(f"was not reached: sending failed ({_said(error)}); it is retried")
        if isinstance(step, Progress):
            self.sent += step.receipt.accepted + step.receipt.duplicates + step.receipt.ignored
            for each in step.receipt.rejected:
                log.warning(
                    "set_aside lane=%s id=%s reason=%r", self.name, each.report_id, each.reason
                )
        if not isinstance(step, Empty):
            self._note(step.reason if isinstance(step, Setback) else None)
        return step

    def give_up(self) -> None:
        """Note that sending was cancelled at the deadline."""
        if not self.problem:
            self._note("did not answer before the deadline")

    def _note(self, problem: str | None) -> None:
        if problem == self.problem:
            return
        _set(self.outage, problem)
        try:
            self.note_problem(self.name, problem)
        except SpoolError as error:  # the log and the metrics have it nevertheless
            log.warning("state_fails: %s", error)
        self.tell()

    async def run(self) -> None:
        """Send until cancelled."""
        await deliver_forever(self.attempt, self.wake)


class Agent:
    """Sources, spool and sender of one configuration."""

    def __init__(self, config: Config, state_lock: StateLock | None = None) -> None:
        self.config = config
        self._lock = state_lock
        self.relay_problem: Callable[[], str | None] = lambda: None
        """Returns why the relay refuses posts, None if it does not."""
        self.relay_refusals: Callable[[], str | None] = lambda: None
        """Returns a sentence on posts refused in the last hour for a wrong secret; None if none."""
        self.spool = Spool(Path(config.state), max_bytes=config.max_spool_bytes)
        self.state = State(self.spool)
        self._wire = AsyncWire(config.collector_url, timeout_seconds=SEND_TIMEOUT_SECONDS)
        self._outages = {
            each.name: _outage(f"source_{{}} source={each.name}", "%s") for each in config.sources
        }
        self._fallen: dict[str, tuple[str, ...]] = {}
        self._empty: set[str] = set()
        """Sources whose last sample had no counters."""
        parcel = Reports(key=config.key, subscription=None)
        self.senders = {REPORTS: self._sender(REPORTS, parcel)}
        if config.relay is not None:
            from collector.agent.relay.relay import Forward  # noqa: PLC0415 - with it, a web server

            for route in config.relay.routes:
                self.senders[route.lane] = self._sender(route.lane, Forward(route))

    def _sender(self, lane: str, parcel: Parcel) -> Sender:
        """Return the sender of a lane of the spool."""
        delivery = Delivery(self.spool.lane(lane), parcel, now_millis=wall_clock_millis)
        return Sender(
            lane, self._wire, delivery, self.state.note_delivery, tell=self.write_heartbeat
        )

    def write_heartbeat(self) -> None:
        """Write the heartbeat: the time, and the problems of lanes, sources and relay."""
        if self._lock is not None:
            self._lock.write_heartbeat(
                lanes={
                    name: each.problem for name, each in self.senders.items() if each.problem != ""
                },
                sources={
                    name: each.reason for name, each in self._outages.items() if each.reason != ""
                },
                relay=self.relay_problem(),
                refused=self.relay_refusals(),
            )

    async def _live(self) -> None:
        while True:
            self.write_heartbeat()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def run(self) -> None:
        """Poll the sources and send the spool until cancelled."""
        for lane, items in self.spool.waiting_lanes().items():
            if lane not in self.senders:
                log.warning(
                    "lane_has_no_route lane=%s items=%d: kept until it has one", lane, items
                )
        async with local_http() as http, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._live())
            for source in self.config.sources:
                tasks.create_task(self._watch(source, http))
            for sender in self.senders.values():
                tasks.create_task(sender.run())

    async def once(self, *, give_up_seconds: float) -> bool:
        """Poll each source once and send the spool; return whether all of that succeeded.

        Sending is cancelled after `give_up_seconds`.
        """
        async with local_http() as http:
            gains = await asyncio.gather(*(self.poll(each, http) for each in self.config.sources))
        deadline = asyncio.get_running_loop().time() + give_up_seconds
        is_sent = [await self._drain(each, deadline) for each in self.senders.values()]
        return all(each is not None for each in gains) and all(is_sent)

    async def _drain(self, sender: Sender, deadline: float) -> bool:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._sent(sender, deadline)
        except TimeoutError:
            sender.give_up()
            return False

    async def _sent(self, sender: Sender, deadline: float) -> bool:
        pace = Pace(chance=random.random)
        now_seconds = asyncio.get_running_loop().time
        while True:
            step = await sender.attempt()
            if isinstance(step, Empty):
                return True
            if isinstance(step, Setback):
                wait_seconds = pace.wait_seconds(asked_seconds=step.after_seconds)
                if step.is_denied or now_seconds() + wait_seconds > deadline:
                    return False
                await asyncio.sleep(wait_seconds)

    async def _watch(self, source: Source, http: httpx.AsyncClient) -> None:
        now_seconds = asyncio.get_running_loop().time
        due_seconds = now_seconds()
        while True:
            await self.poll(source, http)
            raise_if_cancelled()
            due_seconds = max(due_seconds + source.interval_seconds, now_seconds())
            await asyncio.sleep(due_seconds - now_seconds())

    async def poll(self, source: Source, http: httpx.AsyncClient) -> Gain | None:
        """Poll a source and queue its traffic; None after a failure, which is logged and stored."""
        try:
            if isinstance(source.request, ReadStream):
                brought = await follow(source, source.request, self.state)
            else:
                sample = await read(source, http)
                brought = await asyncio.to_thread(absorb, source, self.state, sample)
        except (SourceError, SpoolError) as error:
            await self._note(source, str(error))
            return None
        except Exception as error:  # an unexpected error must not end the other tasks
            log.exception("reading_failed source=%s: it is retried", source.name)
            await self._note(source, f"polling it failed: {_said(error)}")
            return None
        await self._note(source, None)
        self._tell(source, brought)
        if brought.reports:
            self.senders[REPORTS].wake.set()
        return brought

    async def _note(self, source: Source, problem: str | None) -> None:
        outage = self._outages[source.name]
        if problem == outage.reason:
            return
        _set(outage, problem)
        self.write_heartbeat()
        if problem is None:
            return
        try:
            await asyncio.to_thread(self.state.note_problem, source.name, problem)
        except SpoolError as error:
            log.warning("state_fails: %s", error)

    def _tell(self, source: Source, brought: Gain) -> None:
        if isinstance(source.request, ReadStream):
            for each in brought.set_aside:
                log.warning(
                    "message_set_aside source=%s id=%s: it cannot be decoded, so not counted: %s",
                    source.name,
                    each.message_id,
                    each.reason,
                )
            if brought.is_anew:
                log.warning(
                    "stream_is_anew source=%s: the message read last is not in it, though older "
                    "messages are; it is read from its start, without the messages already read",
                    source.name,
                )
            elif brought.advance.restarts:
                log.warning(
                    "stream_has_a_gap source=%s: the message read last was trimmed; unread ones "
                    "may be missing; raise EXPORT_TO_STREAM_MAXLEN",
                    source.name,
                )
            return
        if brought.is_first:
            log.info(
                "source_begins source=%s counters=%d: their values so far %s",
                source.name,
                len(brought.advance.known.baselines),
                "count" if source.count_first else "are the baseline and do not count",
            )
        self._note_empty(source, brought)
        if brought.advance.restarts:
            log.info("source_restarted source=%s: its counters began at zero", source.name)
        fallen = brought.advance.fallen
        if fallen and fallen != self._fallen.get(source.name):
            log.warning(
                "counters_fell source=%s counters=%d first=%r: they are lower than before, though "
                "it was not restarted; they count again above their highest value",
                source.name,
                len(fallen),
                fallen[0],
            )
        self._fallen[source.name] = fallen

    def _note_empty(self, source: Source, brought: Gain) -> None:
        if brought.advance.known.baselines:
            self._empty.discard(source.name)
        elif source.name not in self._empty:
            self._empty.add(source.name)
            if_empty = KINDS[source.kind].if_empty
            log.warning("source_shows_nothing source=%s: %s", source.name, if_empty)

    async def close(self) -> None:
        """Close the connections and the state."""
        await self._wire.close()
        self.spool.close()


def _outage(event: str, reason: str) -> Outage:
    """Return an Outage that logs `event` with `_fails` or `_works`, and has `reason` at first."""
    return Outage(
        event,
        fails=f"{event.format('fails')}: {reason}",
        works=event.format("works"),
        reason="",
        log=log,
        levels=(logging.WARNING, logging.INFO),
        tells_all=True,
    )


def _set(outage: Outage, problem: str | None) -> None:
    if problem is None:
        outage.recovered()
    else:
        outage.failed(problem)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
