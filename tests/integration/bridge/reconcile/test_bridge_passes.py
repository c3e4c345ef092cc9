"""Passes over many users: where they go on, what they leave alone, what they cost the disk."""

from __future__ import annotations

import asyncio
import contextlib
import time

import httpx
import pytest

from marzban_bridge.errors import PanelUnavailableError
from marzban_bridge.quota.trust.panel_suspension import SuspensionKind
from marzban_bridge.quota.trust.suspension import SuspensionReason
from marzban_bridge.reconcile import feed_reader as reading
from marzban_bridge.reconcile.users import batches
from marzban_bridge.reconcile.users.chunk import FAILING_USERS
from marzban_bridge.reconcile.users.concurrency import FEWEST_USERS
from marzban_bridge.reconcile.users.reader import CHUNK
from marzban_bridge.reconcile.work_queue import Urgency
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.bridge_world import WaitingFeed, until
from tests.support.bridge.world import World

NAMES = [f"user{number:03}" for number in range(2 * CHUNK + 20)]


class Listening(httpx.AsyncBaseTransport):
    """Remembers who was listed, and may do something at each list."""

    def __init__(self, inner):
        self._inner = inner
        self.lists = []
        self.on_list = self.on_listed = lambda: None
        self.refuses_writes_with = None
        self.writes = self.asked = 0
        self.fails_at = lambda _: False
        self.asked_to_write = []
        self.written = []
        self.write_seconds = 0.0
        self.on_write = lambda: None
        self.holds = lambda _: False
        self.goes_on = asyncio.Event()

    async def handle_async_request(self, request):
        self.asked += 1
        if request.method == "PUT":
            self.asked_to_write.append(request.url.path.rpartition("/")[2])
        if self.holds(request):
            await self.goes_on.wait()
        if self.fails_at(request):
            return httpx.Response(500, text="Internal Server Error", request=request)
        if request.method == "PUT":
            self.writes += 1
            self.written.append(request.url.path.rpartition("/")[2])
            self.on_write()
            await asyncio.sleep(self.write_seconds)
            if self.refuses_writes_with:
                return httpx.Response(self.refuses_writes_with, request=request)
        if request.url.path == "/api/users":
            self.lists.append(request.url.params.get_list("username"))
            self.on_list()
            answer = await self._inner.handle_async_request(request)
            self.on_listed()
            return answer
        return await self._inner.handle_async_request(request)


@pytest.fixture
def world(tmp_path, store_place):
    opened = World(tmp_path, store=store_place.setting)
    for name in NAMES:
        opened.panel.create_user(name, data_limit=gib(10))
        opened.ledger.report(name, 1)
    opened.one_pass()
    feed = WaitingFeed(opened.ledger)
    opened.ledger.transport = lambda: feed
    opened.restart()
    opened.transport._inner = Listening(opened.transport._inner)
    yield opened
    opened.close()


@contextlib.asynccontextmanager
async def running(world):
    """Let the loop run; as at a start, its first pass begins at once."""
    loop = asyncio.create_task(world.bridges.run())
    try:
        yield
    finally:
        loop.cancel()
        await asyncio.wait([loop])
        assert loop.cancelled()


def pass_ends(world):
    return world.bridge.metrics.last_pass_timestamp_seconds._value.get() > 0


def fail_the_second_list(panel):
    def fail():
        if len(panel.lists) == 2:
            raise httpx.ConnectError("the panel is down")

    panel.on_list = fail


async def whole_pass(world):
    world.bridge.metrics.last_pass_timestamp_seconds.set(0)
    async with running(world):
        await until("a whole pass", lambda: pass_ends(world))


def test_a_pass_goes_on_after_a_restart_with_those_it_had_not_reached_and_sees_everybody(world):
    panel = world.transport._inner
    fail_the_second_list(panel)

    async def be_interrupted():
        async with running(world):
            await until("the second list", lambda: len(panel.lists) == 2)

    world.run(be_interrupted())
    panel.lists.clear()
    panel.on_list = lambda: None
    world.restart()
    world.run(whole_pass(world))
    assert panel.lists[0][0] == NAMES[CHUNK]
    assert sorted(name for names in panel.lists for name in names) == NAMES


def test_a_pass_that_an_outage_cut_short_goes_on_with_the_chunk_that_failed(world):
    panel = world.transport._inner
    fail_the_second_list(panel)
    world.run(whole_pass(world))
    assert [names[0] for names in panel.lists[:3]] == [NAMES[0], NAMES[CHUNK], NAMES[CHUNK]]
    assert sorted({name for names in panel.lists for name in names}) == NAMES


def test_a_flood_of_urgent_users_does_not_keep_a_pass_from_its_end(world):
    world.transport._inner.on_list = lambda: world.bridge.queue.add([NAMES[0]])
    world.run(whole_pass(world))


def test_an_urgent_user_is_next_while_a_pass_is_under_way(world):
    panel = world.transport._inner

    def hurry_once():
        if len(panel.lists) == 1:
            world.bridge.queue.add([NAMES[-1]])

    panel.on_list = hurry_once

    async def look():
        async with running(world):
            await until("the second list", lambda: len(panel.lists) >= 2)

    world.run(look())
    assert panel.lists[1] == [NAMES[-1]]


def test_a_pass_that_reveals_nothing_is_a_commit_per_chunk_and_still_remembers_each_look(world):
    statements = []
    world.bridge.store._handle.db.set_trace_callback(statements.append)
    world.clock.advance(minutes=5)
    world.run(world.bridges.run_once())
    world.bridge.store._handle.db.set_trace_callback(None)
    assert statements.count("COMMIT") == 3
    queries = [each for each in statements if each.startswith("SELECT")]
    assert len(queries) < len(NAMES), "some for each chunk, and none for each user"
    assert {world.account(name).sighting.seen_at for name in NAMES} == {world.clock()}


def test_who_needs_something_is_settled_beside_those_who_do_not(world):
    world.panel.edit_in_dialog(NAMES[1], data_limit=gib(20))
    world.ledger.report(NAMES[2], gib(4))
    world.one_pass()
    assert world.account(NAMES[1]).quota_bytes == gib(20)
    assert world.panel.get_user(NAMES[2])["data_limit"] == gib(6) - 1
    assert world.transport.writes == [("PUT", f"/api/user/{NAMES[2]}")]


def test_nobody_is_taken_in_who_is_being_settled_or_was_since_the_reading(world):
    settler = world.bridge.settler
    busy, settled, idle = NAMES[:3]
    read_at = time.monotonic()
    users = {name: world.run(world.bridge.panel.get_user(name)) for name in (busy, settled, idle)}
    world.run(settler.settle(settled, users[settled], read_at=time.monotonic()))

    async def take_in():
        async with settler._locks.of(busy):
            return settler._intake.take_in(users, read_at=read_at)

    assert set(world.run(take_in()).others) == {busy, settled}


def test_a_webhook_that_waits_is_taken_into_account_by_a_pass_that_shows_no_reset(world):
    world.bridge.store.reset_news.announce(
        [(b"1", NAMES[0])], at=world.clock(), remember_seconds=60
    )
    world.ledger.report(NAMES[0], 5)
    world.one_pass()
    assert world.account(NAMES[0]).baseline_bytes == 6, "a user without panel traffic was reset"


def test_a_pass_that_takes_longer_than_its_interval_leaves_the_panel_alone_for_as_long(world):
    reconciler = world.bridge.reconciler
    now = time.monotonic()
    assert reconciler._finish_pass(now - 1) == pytest.approx(now + 59, abs=1)
    assert reconciler._finish_pass(now - 300) == pytest.approx(now + 300, abs=5)


def test_a_feed_that_always_has_news_is_read_now_and_then_only(world, monkeypatch):
    monkeypatch.setattr(reading, "FEED_GATHER_SECONDS", 0.3)
    reads = []
    read = world.bridges.feed.read

    async def counting(**arguments):
        reads.append(arguments)
        return await read(**arguments)

    monkeypatch.setattr(world.bridges.feed, "read", counting)

    async def follow():
        started_at = time.monotonic()
        async with running(world):
            while len(reads) < 4:
                world.ledger.report(NAMES[0], 1)
                await asyncio.sleep(0.01)
        return time.monotonic() - started_at

    assert world.run(follow()) >= 0.6


def test_a_panel_that_goes_away_within_a_chunk_is_left_alone(world):
    panel = world.transport._inner
    panel.refuses_writes_with = 503
    for name in NAMES[:CHUNK]:
        world.ledger.report(name, gib(4))
    with pytest.raises(PanelUnavailableError):
        world.run(world.bridges.run_once())
    assert panel.writes <= FEWEST_USERS
    panel.refuses_writes_with = None
    world.one_pass()
    assert {world.panel.get_user(name)["data_limit"] for name in NAMES[:CHUNK]} == {gib(6) - 1}


CROSSING = NAMES[-1]
MOVING = NAMES[: 2 * CHUNK]


def report_all_moving(world):
    for name in MOVING:
        world.ledger.report(name, gib(1))


def test_a_crossing_comes_before_all_whose_limit_only_moves(world, monkeypatch):
    """Also while these are being written, each of them slowly."""
    monkeypatch.setattr(reading, "FEED_GATHER_SECONDS", 0.01)
    panel = world.transport._inner
    panel.write_seconds = 0.02

    def cross():
        if len(panel.written) == 10:
            world.ledger.report(CROSSING, gib(11))

    panel.on_write = cross
    report_all_moving(world)

    async def settle():
        async with running(world):
            await until("all writes", lambda: len(panel.written) >= len(MOVING) + 1)

    world.run(settle())
    assert sorted(set(panel.written)) == sorted([*MOVING, CROSSING])
    assert panel.written.index(CROSSING) < 10 + CHUNK
    assert world.panel.get_user(CROSSING)["status"] == "disabled"


def of_writes(request):
    return request.method == "PUT"


def of_chunks(request):
    return len(request.url.params.get_list("username")) > 1


def test_a_pass_does_not_wait_for_limits_that_are_being_written(world):
    panel = world.transport._inner
    panel.holds = of_writes
    report_all_moving(world)
    world.run(world.bridges.feed_reader.to_end())
    assert world.bridge.queue.has(Urgency.PUBLISH)
    world.run(whole_pass(world))
    assert panel.written == []


def test_a_pass_does_not_wait_for_the_limits_of_users_it_sees_first(world):
    panel = world.transport._inner
    names = [f"newcomer{number}" for number in range(CHUNK)]
    for name in names:
        world.panel.create_user(name, data_limit=gib(10))
        world.ledger.report(name, gib(1))
    panel.holds = of_writes

    async def adopt():
        await whole_pass(world)
        panel.goes_on.set()
        async with running(world):
            await until("all writes", lambda: len(panel.written) >= len(names))

    world.run(adopt())
    assert {world.panel.get_user(name)["data_limit"] for name in names} == {gib(9)}


def test_a_crossing_does_not_wait_for_a_list_that_a_pass_reads(world):
    panel = world.transport._inner
    panel.holds = of_chunks

    async def cross():
        async with running(world):
            await until("a list", lambda: panel.asked > 1)
            world.ledger.report(CROSSING, gib(11))
            await until("the write", lambda: panel.written == [CROSSING])

    world.run(cross())
    assert panel.lists == []


def of_write_to(name):
    return lambda request: (request.method, request.url.path) == ("PUT", f"/api/user/{name}")


@pytest.fixture
def queue_alone(world, monkeypatch):
    """Have users settled as the feed brings them, by no pass after the first."""
    monkeypatch.setattr(reading, "FEED_GATHER_SECONDS", 0.01)
    monkeypatch.setattr(world.bridge.reconciler, "_pass_seconds", 86400.0)


@pytest.mark.usefixtures("queue_alone")
def test_limits_go_on_moving_while_crossings_are_written(world):
    panel = world.transport._inner
    panel.holds = of_write_to(CROSSING)

    async def settle():
        async with running(world):
            await until("a whole pass", lambda: pass_ends(world))
            world.ledger.report(CROSSING, gib(11))
            await until("the held write", lambda: panel.asked_to_write == [CROSSING])
            report_all_moving(world)
            await until("the others", lambda: len(panel.written) >= len(MOVING))
            assert CROSSING not in panel.written
            panel.goes_on.set()
            await until("the held write", lambda: CROSSING in panel.written)

    world.run(settle())
    assert sorted(panel.written) == sorted([*MOVING, CROSSING])


@pytest.mark.usefixtures("queue_alone")
def test_a_crossing_does_not_wait_for_the_limits_that_are_being_written(world):
    panel = world.transport._inner
    panel.holds = of_write_to(MOVING[0])

    async def settle():
        async with running(world):
            await until("a whole pass", lambda: pass_ends(world))
            world.ledger.report(MOVING[0], gib(1))
            await until("the held write", lambda: panel.asked_to_write == [MOVING[0]])
            world.ledger.report(CROSSING, gib(11))
            await until("the crossing", lambda: panel.written == [CROSSING])
            panel.goes_on.set()
            await until("the held write", lambda: len(panel.written) == 2)

    world.run(settle())


def test_a_user_who_crosses_while_its_limit_is_written_is_written_to_afterwards(world, monkeypatch):
    monkeypatch.setattr(reading, "FEED_GATHER_SECONDS", 0.01)
    panel = world.transport._inner
    name = MOVING[0]
    panel.holds = of_write_to(name)

    async def settle():
        async with running(world):
            await until("a whole pass", lambda: pass_ends(world))
            world.ledger.report(name, gib(1))
            await until("the held write", lambda: panel.asked_to_write == [name])
            world.ledger.report(name, gib(11))
            world.ledger.report(CROSSING, gib(11))
            await until("another crossing", lambda: panel.written == [CROSSING])
            assert panel.asked_to_write == [name, CROSSING], "one write to a user at a time"
            panel.goes_on.set()
            await until("both writes", lambda: panel.written.count(name) == 2)

    world.run(settle())
    assert world.panel.get_user(name)["status"] == "disabled"


def queue_all_moving(world, count):
    world.one_pass()
    for name in NAMES[:count]:
        world.ledger.report(name, gib(4))
    world.run(world.bridges.feed_reader.to_end())
    panel = world.transport._inner
    panel.lists.clear()
    panel.asked = 0
    return panel


def test_users_whose_limits_move_are_read_from_one_list_right_before_they_are_written(world):
    panel = queue_all_moving(world, FEWEST_USERS)
    world.run(world.bridge.reconciler._settle_batch(Urgency.PUBLISH))
    assert panel.lists == [NAMES[:FEWEST_USERS]]
    assert panel.asked == 1 + FEWEST_USERS
    assert sorted(panel.written) == NAMES[:FEWEST_USERS]


def test_a_user_whose_list_was_read_too_long_ago_is_read_again_before_the_write(world, monkeypatch):
    monkeypatch.setattr(batches, "FRESH_SECONDS", 0.0)
    panel = queue_all_moving(world, FEWEST_USERS)
    edited = NAMES[1]
    panel.on_listed = lambda: world.panel.edit_in_dialog(edited, data_limit=gib(20))
    world.run(world.bridge.reconciler._settle_batch(Urgency.PUBLISH))
    assert world.account(edited).quota_bytes == gib(20)
    assert world.panel.get_user(edited)["data_limit"] == gib(16) - 1


def test_a_queued_user_whose_limit_has_to_be_written_is_read_once(world):
    world.ledger.report(NAMES[0], gib(4))
    world.run(world.bridges.feed_reader.to_end())
    panel = world.transport._inner
    panel.asked = 0
    world.run(world.bridge.reconciler._settle_batch(Urgency.PUBLISH))
    sign_in_and_kind = 2
    assert (panel.asked - sign_in_and_kind, panel.lists) == (2, [])
    assert world.panel.get_user(NAMES[0])["data_limit"] == gib(6) - 1


def test_a_queued_user_whose_limit_was_written_meanwhile_is_not_read_again(world):
    world.one_pass()
    panel = world.transport._inner
    panel.asked = 0
    world.bridge.queue.add([NAMES[0]], Urgency.PUBLISH)
    world.run(world.bridge.reconciler._settle_batch(Urgency.PUBLISH))
    assert (panel.asked, world.bridge.queue.most_urgent()) == (0, None)


def test_users_who_are_seen_first_are_a_commit_per_chunk_with_their_events(world):
    names = [f"newcomer{number}" for number in range(CHUNK)]
    for name in names:
        world.panel.create_user(name, data_limit=gib(10))
        world.ledger.report(name, 1)
    world.run(world.bridges.feed_reader.to_end())
    world.bridge.queue.clear()
    statements = []
    world.bridge.store._handle.db.set_trace_callback(statements.append)
    world.run(world.bridge.reconciler.pass_over_all())
    world.bridge.store._handle.db.set_trace_callback(None)
    assert statements.count("COMMIT") == 4
    events = world.bridge.store.events.newest(limit=CHUNK)
    assert sorted(each.username for each in events) == sorted(names)
    assert {each.event.kind for each in events} == {"adopted"}


def test_whom_a_pass_finds_at_a_crossing_comes_before_those_it_found_moving(world):
    panel = world.transport._inner
    report_all_moving(world)
    world.ledger.report(CROSSING, gib(11))
    world.one_pass()
    assert panel.written[0] == CROSSING
    assert sorted(panel.written) == sorted([*MOVING, CROSSING])


def test_a_panel_that_fails_at_one_user_serves_the_others_and_is_not_away(world, caplog):
    panel = world.transport._inner
    panel.fails_at = lambda request: request.url.path == f"/api/user/{NAMES[0]}"
    for name in NAMES[:CHUNK]:
        world.ledger.report(name, gib(4))
    result = world.run(world.bridges.run_once())
    assert result.failures == 1
    assert f"user={NAMES[0]} could not be settled" in caplog.text
    assert world.bridge.reconciler.health.outage.is_up
    others = NAMES[1:CHUNK]
    assert {world.panel.get_user(name)["data_limit"] for name in others} == {gib(6) - 1}


def test_a_panel_whose_database_goes_away_within_a_chunk_is_away_and_asked_a_few_times(world):
    world.one_pass()
    panel = world.transport._inner
    panel.asked = 0
    panel.fails_at = lambda request: request.url.path.startswith(("/api/user/", "/api/system"))
    for name in NAMES[:CHUNK]:
        world.ledger.report(name, gib(4))
    with pytest.raises(PanelUnavailableError, match="fails at everything"):
        world.run(world.bridges.run_once())
    lists_and_sign_in = 5
    assert panel.asked <= lists_and_sign_in + FAILING_USERS + 2 * FEWEST_USERS


def test_after_doubt_that_cut_a_pass_short_the_next_one_comes_at_once(world):
    """The pass would have lasted for an hour of suspension, and the next one waited as long."""
    reconciler = world.bridge.reconciler
    begun = []

    async def live() -> None:
        reconciler._pass_seconds = 0.05
        await reconciler._rollback_check.check()
        running = asyncio.create_task(reconciler.run())
        try:
            await until("a pass has begun", lambda: reconciler._pass is not None)
            reason = SuspensionReason(
                kind=SuspensionKind.WENT_BACK, text="as some time ago", since=world.clock()
            )
            world.bridge.store.suspension.begin(reason, at=world.clock())
            reconciler._pass_started_at = time.monotonic() - 3600
            await until("the suspension is over", lambda: not world.bridge.store.suspension.reasons)
            begun.append(world.bridge.metrics.evaluations._value.get())
            await until(
                "everybody is looked at again",
                lambda: world.bridge.metrics.evaluations._value.get() >= begun[0] + 2 * len(NAMES),
            )
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    world.run(live())
