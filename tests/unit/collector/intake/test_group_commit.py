"""Group commit: what shares a commit, who is answered when, and what a failure costs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Self

import pytest

from collector.errors import (
    DiskFullError,
    LedgerUnavailableError,
    NotStoredError,
    QueueFullError,
)
from collector.intake import deferred_sums, embedded, shared, shared_leader
from collector.intake.deferred_sums import DeferredSums, fold_after_seconds
from collector.intake.embedded import EmbeddedIngest
from collector.intake.ingest import Ingest, IngestOptions
from collector.intake.shared import SharedIngest
from collector.ledger import Batch, Receipt
from collector.ledger.lost_commits import Losses
from collector.metrics import Metrics
from collector.reports.report import DAY_MILLIS, MAX_AHEAD_MILLIS, Limits
from tests.support.collector.ledgers import NOON_MILLIS, batch, report


class MemoryLedger:
    """Keeps what is recorded; commits wait at a gate, and may fail."""

    def __init__(self) -> None:
        self.commits: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.is_in_commit = threading.Event()
        self.failure: Callable[[Sequence[Batch]], Exception | None] = lambda _: None
        self.forgotten_before: list[int] = []
        self.forgotten_through: list[int | None] = []
        self.ran_millis = 0
        self.forgotten = threading.Event()
        self.folds = 0
        self.order: list[str] = []
        self.fold_steps = self.fold_steps_left = 1
        self.needs_indexing = False
        self.deferred: list[bool] = []
        self.fold_failure: Exception | None = None
        self.has_folded = threading.Event()
        self.has_failed_to_fold = threading.Event()

    def fold_some(self) -> bool:
        if self.fold_failure:
            self.has_failed_to_fold.set()
            raise self.fold_failure
        self.order.append("step")
        self.fold_steps_left -= 1
        if self.fold_steps_left > 0:
            return True
        self.fold_steps_left = self.fold_steps
        self.folds += 1
        self.has_folded.set()
        return False

    def index_some(self) -> None:
        self.order.append("ids")
        self.needs_indexing = False

    def record(
        self, batches: Sequence[Batch], *, received_at_millis: int, defers_sums: bool = False
    ) -> list[Receipt]:
        self.is_in_commit.set()
        assert self.gate.wait(120)
        if error := self.failure(batches):
            raise error
        self.deferred.append(defers_sums)
        self.order.append("commit")
        self.commits.append([each.username for one in batches for each in one.reports])
        return [Receipt(len(each.reports), 0) for each in batches]

    def age(self, *, ran_millis: int, kept_millis: int) -> int:
        self.ran_millis += ran_millis
        return 17

    def forget_reports(
        self,
        *,
        before_millis: int,
        limit: int,
        keeps_unexported: bool,
        through_seq: int | None = None,
    ) -> int:
        self.forgotten_before.append(before_millis)
        self.forgotten_through.append(through_seq)
        self.forgotten.set()
        return 0

    def forget_days(self, *, before_day: int, limit: int) -> int:
        return 0

    def close(self) -> None:
        pass


class SharedMemoryLedger(MemoryLedger):
    """One that several collectors could write; this one leads."""

    leads = True

    def __init__(self) -> None:
        super().__init__()
        self.losses = Losses()
        self.looks = 0
        self.is_settled = False
        self.others = 0
        self.behind: list[int] = []
        self.head = 0
        self.added_up: list[int] = []
        self.adding_failure: Exception | None = None

    def lead(self, *, defers_sums: bool = False, is_awaited: bool = False) -> int:
        assert defers_sums, "a running collector adds up in threads of their own"
        self.looks += 1
        return self.head

    def add_up(self, part: int) -> bool:
        if self.adding_failure:
            raise self.adding_failure
        self.added_up.append(part)
        has_more = self.added_up.count(part) < 3
        if not has_more:
            self.behind = [each for each in self.behind if each != part]
        return has_more

    def await_sums(self) -> None:
        pass


class World:
    ledger: MemoryLedger
    ingest: Ingest

    def __init__(self, **options) -> None:
        self.metrics = Metrics()
        self.make(
            IngestOptions(
                now_millis=lambda: NOON_MILLIS, metrics=self.metrics, limits=Limits(), **options
            )
        )

    def make(self, options: IngestOptions) -> None:
        self.ledger = MemoryLedger()
        self.ingest = EmbeddedIngest(self.ledger, options)

    async def __aenter__(self) -> Self:
        self.ingest.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.ledger.gate.set()
        await self.ingest.stop()

    def submit(self, *usernames: str) -> asyncio.Task[Receipt]:
        return asyncio.create_task(self.ingest.submit(batch(*map(report, usernames))))

    async def hold_a_commit(self) -> asyncio.Task[Receipt]:
        """Start a commit that does not end until the gate opens."""
        self.ledger.gate.clear()
        held = self.submit("held")
        await asyncio.to_thread(self.ledger.is_in_commit.wait, 10)
        return held

    async def hold_a_commit_and_queue(self, username: str) -> asyncio.Task[Receipt]:
        """Let a commit be followed at once by another, which is returned."""
        held = await self.hold_a_commit()
        follower = self.submit(username)
        await queued(self, reports=2)
        self.ledger.gate.set()
        await held
        return follower

    def sample(self, name: str) -> float:
        value = self.metrics.registry.get_sample_value(name)
        assert value is not None
        return value


async def queued(world: World, *, reports: int) -> None:
    for _ in range(1000):
        if world.sample("collector_queued_reports") == reports:
            return
        await asyncio.sleep(0)
    raise AssertionError("never queued")


async def test_memory_is_given_back_once_it_is_quiet_after_adding_up(monkeypatch):
    given_back: list[int] = []
    is_given_back = threading.Event()

    def give_back() -> None:
        given_back.append(world.ledger.folds)
        is_given_back.set()

    monkeypatch.setattr(embedded, "QUIET_SECONDS", 0.01)
    monkeypatch.setattr(embedded.free_memory, "give_back", give_back)
    async with World() as world:
        await world.submit("alone")
        assert world.ingest._quiet_at is None, "nothing was added up later"
        await asyncio.gather(await world.hold_a_commit_and_queue("a"))
        assert await asyncio.to_thread(is_given_back.wait, 120)
        assert given_back == [1]
        assert world.ingest._quiet_at is None


@pytest.mark.parametrize(("large", "given_back_after"), [(1, [1]), (2, [])])
async def test_memory_is_given_back_after_a_large_fold_at_once(
    monkeypatch, large, given_back_after
):
    given_back: list[int] = []
    monkeypatch.setattr(embedded, "QUIET_SECONDS", 120)
    monkeypatch.setattr(embedded, "LARGE_FOLD_REPORTS", large)
    monkeypatch.setattr(
        embedded.free_memory, "give_back", lambda: given_back.append(world.ledger.folds)
    )
    async with World() as world:
        await asyncio.gather(await world.hold_a_commit_and_queue("a"))
        await world.ingest.catch_up()
        assert world.ledger.folds == 1
        assert given_back == given_back_after


async def test_nobody_is_answered_before_the_commit_has_ended():
    async with World() as world:
        held = await world.hold_a_commit()
        assert not held.done()
        world.ledger.gate.set()
        assert await held == Receipt(1, 0)


async def test_what_waits_during_a_commit_shares_the_next_one():
    async with World() as world:
        tasks = [await world.hold_a_commit()]
        tasks += [world.submit(f"u{number}") for number in range(20)]
        await queued(world, reports=21)
        world.ledger.gate.set()
        await asyncio.gather(*tasks)
        assert world.ledger.commits == [["held"], [f"u{number}" for number in range(20)]]


async def test_a_group_is_bounded_in_reports():
    async with World(max_group_reports=3) as world:
        tasks = [await world.hold_a_commit()]
        tasks += [world.submit("a", "b") for _ in range(3)]
        await queued(world, reports=7)
        world.ledger.gate.set()
        await asyncio.gather(*tasks)
        assert [len(each) for each in world.ledger.commits] == [1, 4, 2]


async def test_a_full_queue_refuses_instead_of_growing_and_takes_again_later():
    async with World(max_queued_reports=5) as world:
        tasks = [await world.hold_a_commit(), world.submit("a", "b", "c")]
        await queued(world, reports=4)
        with pytest.raises(QueueFullError, match="4 reports are waiting"):
            await world.submit("d", "e")
        tasks.append(world.submit("f"))
        await queued(world, reports=5)
        world.ledger.gate.set()
        await asyncio.gather(*tasks)
        await world.submit("d", "e")
        assert world.sample("collector_queued_reports") == 0


async def test_a_request_larger_than_the_queue_is_taken_when_nothing_else_waits():
    async with World(max_queued_reports=1) as world:
        assert await world.submit("a", "b", "c") == Receipt(3, 0)


async def test_a_poisonous_request_fails_alone():
    async with World() as world:
        world.ledger.failure = lambda batches: (
            NotStoredError("poison") if any("poison" in str(each) for each in batches) else None
        )
        tasks = [await world.hold_a_commit(), *map(world.submit, ["a", "poison", "b"])]
        await queued(world, reports=4)
        world.ledger.gate.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(each, NotStoredError) for each in outcomes] == [
            False,
            False,
            True,
            False,
        ]
        assert world.ledger.commits == [["held"], ["a"], ["b"]]


async def test_a_full_disk_fails_all_of_the_group_at_once_and_is_told_until_it_is_over(caplog):
    async with World() as world:
        held = await world.hold_a_commit()
        tasks = [world.submit("a"), world.submit("b")]
        await queued(world, reports=3)
        attempts = []

        def full(batches: Sequence[Batch]) -> Exception:
            attempts.append(len(batches))
            return DiskFullError("the disk is full")

        world.ledger.failure = full
        world.ledger.gate.set()
        outcomes = await asyncio.gather(held, *tasks, return_exceptions=True)
        assert all(isinstance(each, DiskFullError) for each in outcomes)
        assert attempts == [1, 2]
        assert world.ingest.problems == ["the last commit failed: the disk is full"]
        world.ledger.failure = lambda _: None
        await world.submit("a")
        assert world.ingest.problems == []
    states = [each.message for each in caplog.records]
    assert states == ["storing fails: the disk is full", "storing works again"]


async def test_a_defect_is_an_answer_without_its_words_and_the_thread_goes_on(caplog):
    """What went wrong inside is for the log; senders and `/readyz` are told where to look."""
    async with World() as world:
        world.ledger.failure = lambda _: RuntimeError("a defect")
        with pytest.raises(NotStoredError, match="the collector's log says why") as raised:
            await world.submit("a")
        assert "a defect" not in str(raised.value)
        assert "RuntimeError" not in f"{raised.value}{world.ingest.problems}"
        assert "a defect" in caplog.text
        world.ledger.failure = lambda _: None
        assert await world.submit("a") == Receipt(1, 0)
        assert world.ingest.problems == []


async def test_a_defect_with_one_request_of_a_refused_group_leaves_the_others_stored(caplog):
    def refuses(batches: Sequence[Batch]) -> Exception | None:
        names = [report.username for each in batches for report in each.reports]
        if "defect" not in names:
            return None
        return NotStoredError("one of them") if names[1:] else RuntimeError("a defect")

    async with World() as world:
        held = await world.hold_a_commit()
        world.ledger.failure = refuses
        first, poisonous, last = world.submit("first"), world.submit("defect"), world.submit("last")
        await queued(world, reports=4)
        world.ledger.gate.set()
        await held
        assert await first == await last == Receipt(1, 0)
        with pytest.raises(NotStoredError, match="the collector's log says why"):
            await poisonous
        assert "a defect" in caplog.text
        assert await world.submit("next") == Receipt(1, 0)


async def test_a_sender_that_went_away_is_stored_all_the_same():
    async with World() as world:
        held = await world.hold_a_commit()
        gone = world.submit("gone")
        await queued(world, reports=2)
        gone.cancel()
        world.ledger.gate.set()
        await held
        await world.submit("next")
        assert [each for commit in world.ledger.commits for each in commit] == [
            "held",
            "gone",
            "next",
        ]
        assert world.sample("collector_queued_reports") == 0


async def test_stopping_stores_what_is_queued_then_refuses_and_wakes_who_waits():
    world = World()
    async with world:
        tasks = [await world.hold_a_commit(), world.submit("a"), world.submit("b")]
        await queued(world, reports=3)
        waiting = world.ingest.commits.subscribe()
        stopping = asyncio.create_task(world.ingest.stop())
        await asyncio.sleep(0)
        with pytest.raises(NotStoredError, match="stopping"):
            await world.submit("late")
        world.ledger.gate.set()
        await stopping
        assert [each.accepted for each in await asyncio.gather(*tasks)] == [1, 1, 1]
        assert waiting.is_set()
        assert world.ingest.commits.is_closed
        assert world.ingest.problems == ["the ledger's writing thread has stopped"]
    assert world.ledger.commits == [["held"], ["a", "b"]]


async def test_a_commit_wakes_all_who_wait_for_one():
    async with World() as world:
        waiting = [world.ingest.commits.subscribe() for _ in range(3)]
        await world.submit("a")
        assert all(each.is_set() for each in waiting)
        assert not world.ingest.commits.subscribe().is_set()


class TestDeferredSums:
    """Under load reports are stored first and added up a little later."""

    async def test_a_lone_commit_adds_up_by_itself(self):
        async with World() as world:
            await world.submit("a")
            assert world.ledger.deferred == [False]
            await world.ingest.catch_up()
            assert world.ledger.folds == 0

    async def test_commits_that_follow_closely_leave_it_for_later(self):
        async with World() as world:
            held = await world.hold_a_commit()
            next_ = world.submit("a")
            await queued(world, reports=2)
            world.ledger.gate.set()
            await asyncio.gather(held, next_)
            assert world.ledger.deferred == [False, True]
            await asyncio.to_thread(world.ledger.has_folded.wait, 10)
            assert world.ledger.folds == 1, "as soon as nothing else is to do"

    async def test_catching_up_adds_up_at_once_and_only_what_is_left(self):
        async with World() as world:
            await asyncio.gather(await world.hold_a_commit_and_queue("a"))
            await world.ingest.catch_up()
            assert world.ledger.folds == 1
            await world.ingest.catch_up()
            assert world.ledger.folds == 1

    async def test_commits_come_between_the_steps_of_adding_up(self, monkeypatch):
        monkeypatch.setattr(deferred_sums, "FOLD_REPORTS", 1)
        async with World() as world:
            world.ledger.fold_steps = world.ledger.fold_steps_left = 4
            order = world.ledger.order
            tasks = [await world.hold_a_commit(), world.submit("a")]
            await queued(world, reports=2)
            world.ingest._writer._max_group_reports = 1
            tasks += [world.submit(name) for name in "bcde"]
            await queued(world, reports=6)
            await asyncio.sleep(0)  # they are handed to the thread in the next turn of the loop
            world.ledger.gate.set()
            await asyncio.gather(*tasks)
            await world.ingest.catch_up()
        assert order[:9] == ["commit", "commit", "step"] + ["commit", "step"] * 3
        assert world.ledger.folds == 2, "one with a, one with what came during its steps"

    async def test_many_ids_in_memory_have_a_step_between_commits(self):
        async with World() as world:
            world.ledger.needs_indexing = True
            tasks = [await world.hold_a_commit(), world.submit("a")]
            await queued(world, reports=2)
            world.ingest._writer._max_group_reports = 1
            tasks += [world.submit(name) for name in "bc"]
            await queued(world, reports=4)
            await asyncio.sleep(0)  # they are handed to the thread in the next turn of the loop
            world.ledger.gate.set()
            await asyncio.gather(*tasks)
            await world.ingest.catch_up()
        assert world.ledger.order[:4] == ["commit", "commit", "ids", "commit"]

    async def test_catching_up_waits_for_what_was_stored_before_alone(self):
        async with World() as world:
            world.ledger.fold_steps = world.ledger.fold_steps_left = 50
            await asyncio.gather(await world.hold_a_commit_and_queue("a"))
            await world.ingest.catch_up()
            assert world.ledger.folds == 1
            assert not world.ingest._sums.are_behind

    async def test_a_fold_that_is_under_way_ends_when_it_stops(self):
        async with World() as world:
            world.ledger.fold_steps = world.ledger.fold_steps_left = 5
            await asyncio.gather(await world.hold_a_commit_and_queue("a"))
        assert world.ledger.folds == 1

    async def test_adding_up_wakes_who_waits_for_sums(self):
        async with World() as world:
            await asyncio.gather(await world.hold_a_commit_and_queue("a"))
            waiting = world.ingest.commits.subscribe()
            async with asyncio.timeout(120):
                await waiting.wait()
            assert world.ledger.folds == 1

    async def test_a_failure_is_told_tried_again_and_over(self, caplog, monkeypatch):
        monkeypatch.setattr(deferred_sums, "FOLD_RETRY_SECONDS", 0.01)
        async with World() as world:
            world.ledger.fold_failure = DiskFullError("the disk is full")
            await asyncio.gather(await world.hold_a_commit_and_queue("a"))
            with pytest.raises(DiskFullError):
                await world.ingest.catch_up()
            world.ledger.has_failed_to_fold.clear()
            await asyncio.to_thread(world.ledger.has_failed_to_fold.wait, 10)
            world.ledger.fold_failure = None
            await asyncio.to_thread(world.ledger.has_folded.wait, 10)
            await world.ingest.run(lambda _: None)
            assert world.ingest.problems == []
        texts = [each.message for each in caplog.records]
        assert texts[-1] == "adding up works again"
        assert texts.count(texts[0]) == 1

    async def test_a_failure_is_over_with_a_commit_that_adds_up_at_once(self, monkeypatch):
        """On a slow disk commits are far apart, and no fold comes that could say so."""
        monkeypatch.setattr(deferred_sums, "FOLD_RETRY_SECONDS", 60)
        async with World() as world:
            world.ledger.fold_failure = DiskFullError("the disk is full")
            await asyncio.gather(await world.hold_a_commit_and_queue("a"))
            await asyncio.to_thread(world.ledger.has_failed_to_fold.wait, 10)
            await world.ingest.run(lambda _: None)  # behind the fold that failed
            assert world.ingest.problems == [
                "reports are stored, but not added up: the disk is full"
            ]
            monkeypatch.setattr(deferred_sums, "BUSY_SECONDS", 0)
            await world.submit("b")
            assert world.ledger.deferred[-1] is False
            assert world.ingest.problems == []

    async def test_what_is_left_is_added_up_when_it_stops(self):
        async with World() as world:
            await asyncio.gather(await world.hold_a_commit_and_queue("a"))
        assert world.ledger.folds == 1


async def test_other_work_runs_between_commits_and_hands_back_its_outcome():
    async with World() as world:
        assert await world.ingest.run(lambda ledger: len(ledger.commits)) == 0
        await world.submit("a")
        assert await world.ingest.run(lambda ledger: len(ledger.commits)) == 1
        with pytest.raises(ZeroDivisionError):
            await world.ingest.run(lambda _: 1 // 0)
        assert await world.submit("b") == Receipt(1, 0)


async def test_ids_are_purged_in_the_background_when_their_time_is_over(monkeypatch):
    monkeypatch.setattr("collector.intake.purge.PURGE_SECONDS", 0.01)
    async with World() as world:
        await asyncio.to_thread(world.ledger.forgotten.wait, 10)
    assert world.ledger.forgotten_before[0] == NOON_MILLIS - 7 * DAY_MILLIS - MAX_AHEAD_MILLIS - 1
    assert world.ledger.forgotten_through[0] == 17


async def test_a_defect_of_a_purge_does_not_end_the_thread(monkeypatch, caplog):
    monkeypatch.setattr("collector.intake.purge.PURGE_SECONDS", 0.01)
    tried = threading.Event()

    def fails(**_: object) -> int:
        tried.set()
        raise MemoryError("a defect")

    async with World() as world:
        world.ledger.age = fails
        await asyncio.to_thread(tried.wait, 60)
        assert await world.submit("a") == Receipt(1, 0)
        assert "old reports could not be purged: a defect" in caplog.text
        del world.ledger.age
        await asyncio.to_thread(world.ledger.forgotten.wait, 60)
    assert world.ledger.forgotten_through[0] == 17


async def test_the_time_that_it_ran_is_told_once(monkeypatch):
    monkeypatch.setattr("collector.intake.purge.PURGE_SECONDS", 0.002)
    started_at = time.monotonic()
    async with World() as world:
        while len(world.ledger.forgotten_before) < 50:
            await asyncio.sleep(0.01)
    ran_millis = (time.monotonic() - started_at) * 1000
    assert ran_millis / 2 < world.ledger.ran_millis + len(world.ledger.forgotten_before)
    assert world.ledger.ran_millis <= ran_millis


@pytest.mark.parametrize(
    ("last_fold_seconds", "expected_seconds"),
    [(0.0, 1.0), (0.05, 1.0), (0.1, 1.9), (0.25, 4.75), (60.0, 5.0)],
)
def test_adding_up_takes_a_twentieth_of_the_time_at_most_and_waits_five_seconds_at_most(
    last_fold_seconds, expected_seconds
):
    assert fold_after_seconds(last_fold_seconds) == pytest.approx(expected_seconds)


class SharedWorld(World):
    def make(self, options: IngestOptions) -> None:
        self.ledger = self.shared = SharedMemoryLedger()
        self.ingest = SharedIngest(self.shared, self.shared, options)

    @property
    def submitted(self) -> list[str]:
        """The users whose reports wait in the event loop."""
        return [item.batch.reports[0].username for item in self.ingest._writer._submitted]

    def have_it_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have commits wait for more reports for longer than a test takes."""
        monkeypatch.setattr(shared, "GATHER_SECONDS", 600)
        self.ingest._writer.last_seconds = 600

    async def until_looked(self, *, looks: int) -> None:
        async with asyncio.timeout(120):
            while self.shared.looks < looks:
                await asyncio.sleep(0.001)

    async def have_it_looked_at(self) -> None:
        """Return after a whole look at the ledger."""
        for _ in range(2):
            looks = self.shared.looks
            self.ingest._leader.wake()
            await self.until_looked(looks=looks + 1)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not holds():
            await asyncio.sleep(0.001)


class TestSharedLedger:
    """Where another thread, or another collector, adds up and purges."""

    @pytest.fixture(autouse=True)
    def _looks_only_when_woken(self, monkeypatch):
        monkeypatch.setattr(shared_leader, "POLL_SECONDS", 60)
        monkeypatch.setattr(shared_leader, "BUSY_POLL_SECONDS", 60)
        monkeypatch.setattr(shared_leader, "LONGEST_PAUSE_SECONDS", 60)

    async def test_reports_are_only_appended_and_the_leader_looks_after_each_commit(self):
        async with SharedWorld() as world:
            await world.have_it_looked_at()
            signal = world.ingest.commits.subscribe()
            for _ in range(3):
                looks = world.shared.looks
                await world.submit("alice")
                await world.until_looked(looks=looks + 1)
            assert world.ledger.deferred == [True] * 3
            assert (world.ledger.folds, world.ledger.forgotten_before) == (0, [])
            assert not signal.is_set()  # readers of sums are told when there are any

    @pytest.mark.parametrize(
        ("others", "reports", "gathers"),
        [(1, 2, True), (0, 2, False), (1, 1, False), (1, 200, False)],
    )
    async def test_a_commit_waits_for_more_where_others_commit_too_and_the_last_was_small(
        self, monkeypatch, others, reports, gathers
    ):
        async with SharedWorld() as world:
            await world.submit(*["first"] * reports)
            world.have_it_wait(monkeypatch)
            world.shared.others = others
            tasks = [world.submit("a")]
            await until(lambda: world.submitted == (["a"] if gathers else []))
            if gathers:
                tasks.append(world.submit("b"))  # now there are as many as were answered
            await asyncio.gather(*tasks)
            assert world.ledger.commits[1:] == [["a", "b"] if gathers else ["a"]]

    async def test_a_commit_waits_for_those_who_were_answered_beside_those_who_were_not(self):
        async with SharedWorld() as world:
            world.ingest._writer._gather_seconds = lambda: 600.0
            world.ledger.gate.clear()
            tasks = [world.submit("a", "b")]
            await until(world.ledger.is_in_commit.is_set)
            tasks.append(world.submit("c"))
            await until(lambda: world.submitted == ["c"])
            world.ledger.gate.set()
            await tasks[0]
            tasks.append(world.submit("a"))
            await until(lambda: world.submitted == ["c", "a"])
            tasks.append(world.submit("b"))
            await asyncio.gather(*tasks)
            assert world.ledger.commits == [["a", "b"], ["c", "a", "b"]]

    async def test_a_commit_waits_for_two_milliseconds_and_no_longer_than_the_last_took(self):
        async with SharedWorld() as world:
            world.shared.others = 1
            await world.submit("first", "second")
            for took_seconds, seconds in ((1, 0.002), (0.0005, 0.0005)):
                world.ingest._writer.last_seconds = took_seconds
                assert world.ingest._gather_seconds() == seconds
            await world.submit("a")  # "b" never comes

    async def test_what_waits_for_more_is_stored_at_the_end(self, monkeypatch):
        async with SharedWorld() as world:
            world.shared.others = 1
            await world.submit("first", "second")
            world.have_it_wait(monkeypatch)
            task = world.submit("a")
            await until(lambda: world.submitted == ["a"])
        await task
        assert world.ledger.commits[1:] == [["a"]]

    async def test_each_partition_that_is_behind_is_added_up_to_its_end_by_a_thread_of_its_own(
        self,
    ):
        async with SharedWorld() as world:
            world.shared.behind = [0, 2]
            await world.have_it_looked_at()
            await until(lambda: sorted(world.shared.added_up) == [0, 0, 0, 2, 2, 2])
            names = {each.name for each in threading.enumerate()}
            assert {"ledger-adding-0", "ledger-adding-2"} <= names
        assert not {each.name for each in threading.enumerate()} & {
            "ledger-adding-0",
            "ledger-adding-2",
        }

    async def test_a_partition_that_cannot_be_added_up_is_a_problem_until_it_can(self):
        async with SharedWorld() as world:
            world.shared.behind = [1]
            world.shared.adding_failure = LedgerUnavailableError("away")
            await world.have_it_looked_at()
            await until(lambda: world.ingest.problems == ["adding up fails: away"])
            world.shared.adding_failure = None
            world.ingest._leader.wake()
            await until(lambda: not world.ingest.problems)

    async def test_a_partition_that_another_collector_adds_up_by_now_is_no_problem_here(self):
        async with SharedWorld() as world:
            world.shared.behind = [1]
            world.shared.adding_failure = LedgerUnavailableError("away")
            await world.have_it_looked_at()
            await until(lambda: world.ingest.problems == ["adding up fails: away"])
            world.shared.behind = []
            await world.have_it_looked_at()
            await until(lambda: not world.ingest.problems)

    async def test_the_leader_purges(self, monkeypatch):
        monkeypatch.setattr("collector.intake.purge.PURGE_SECONDS", 0)
        async with SharedWorld() as world:
            await world.have_it_looked_at()
            assert world.ledger.forgotten_through[0] == 17

    async def test_a_server_that_is_away_fails_all_of_a_group_at_once(self):
        tries = []

        def fail(batches):
            tries.append(len(batches))
            return LedgerUnavailableError("away")

        async with SharedWorld() as world:
            await world.have_it_looked_at()
            held = await world.hold_a_commit()
            waiting = [world.submit("a"), world.submit("b"), world.submit("c")]
            await queued(world, reports=4)
            world.ledger.failure = fail
            world.ledger.gate.set()
            with pytest.raises(LedgerUnavailableError):
                await held
            for each in waiting:
                with pytest.raises(LedgerUnavailableError):
                    await each
            assert tries == [1, 3]
            assert world.ingest.problems == ["the last commit failed: away"]
            await world.have_it_looked_at()
            assert world.ingest.problems == []

    async def test_only_what_the_server_was_away_for_is_over_when_it_is_back(self):
        async with SharedWorld() as world:
            world.ledger.failure = lambda _: DiskFullError("full")
            with pytest.raises(DiskFullError):
                await world.submit("a")
            await world.have_it_looked_at()
            assert world.ingest.problems == ["the last commit failed: full"]

    async def test_other_work_does_not_wait_for_a_commit(self):
        async with SharedWorld() as world:
            held = await world.hold_a_commit()
            assert (
                await world.ingest.run(lambda ledger: ledger.forget_days(before_day=1, limit=1))
                == 0
            )
            world.ledger.gate.set()
            await held


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now_seconds = 1000.0

    def monotonic(self) -> float:
        return self.now_seconds

    perf_counter = monotonic


def test_commits_that_follow_each_other_do_not_make_the_oldest_report_younger(monkeypatch):
    """Else reports that keep coming would be in no sum for ever."""
    clock = Clock()
    monkeypatch.setattr(deferred_sums, "time", clock)
    sums = DeferredSums(MemoryLedger(), metrics=Metrics(), on_added_up=lambda _: None)
    sums.note_commit([Receipt(1, 0)], is_deferred=False)
    for _ in range(40):
        clock.now_seconds += 0.03
        assert sums.defers_next
        sums.note_commit([Receipt(1, 0)], is_deferred=True)
        assert sums.is_due is (clock.now_seconds - 1000.03 >= deferred_sums.FOLD_SECONDS)
    assert sums.is_due


def test_a_commit_after_a_pause_adds_up_at_once_but_not_what_others_left(monkeypatch):
    """Else one after a long step, such as indexing ids, would wait for a whole fold."""
    clock = Clock()
    monkeypatch.setattr(deferred_sums, "time", clock)
    sums = DeferredSums(MemoryLedger(), metrics=Metrics(), on_added_up=lambda _: None)
    assert not sums.defers_next
    sums.note_commit([Receipt(1, 0)], is_deferred=False)
    sums.note_commit([Receipt(1, 0)], is_deferred=True)
    clock.now_seconds += 60
    assert sums.defers_next
    assert sums.try_add_some()
    assert not sums.defers_next
