"""InfluxDB is kept in step with the books, and whatever it does, nothing else is kept waiting."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta

import pytest

from collector.influx.outcome import Drop, Halt, Outcome, Retry, Split, Stored
from collector.schema import RESELLER_USAGE
from marzban_bridge.metrics import Metrics
from marzban_bridge.quota.account import Event
from marzban_bridge.quota.resellers.reseller import Reseller, ResellerReset
from marzban_bridge.quota.usage import UsageChange
from marzban_bridge.store.store import Store
from marzban_bridge.timeseries.summaries import APART_SECONDS
from marzban_bridge.timeseries.writer import GATHER_SECONDS, PAGE, TimeSeriesWriter
from tests.support.bridge.bridge_builders import NOW, account, gib, panel_user
from tests.support.clocks import ManualClock

HEARTBEAT_SECONDS = 600


class FakeInflux:
    """Keeps points as InfluxDB does, by series and time; may be away, and may refuse lines."""

    def __init__(self) -> None:
        self.points: dict[str, str] = {}
        self.writes: list[list[str]] = []
        self.summaries: list[list[str]] = []
        """Writes of lists and sums over all users, which are apart from those of single users."""
        self.away: Outcome | None = None
        self.refuses: Callable[[str], bool] = lambda _: False
        self.closed = 0

    def write(self, bucket, lines):
        assert bucket == "traffic/raw"
        if lines[0].startswith("user_counts,"):
            if not self.away:
                self.summaries.append(list(lines))
            return self.away or Stored()
        self.writes.append(list(lines))
        if self.away:
            return self.away
        if any(self.refuses(line) for line in lines):
            return Split("bad line") if len(lines) > 1 else Drop("bad line")
        for line in lines:
            series, rest = line.split(" ", 1)
            self.points[f"{series} {rest.rsplit(' ', 1)[1]}"] = rest
        return Stored()

    def close(self):
        self.closed += 1

    def of(self, measurement):
        """Return the points of a measurement as `user → how many`."""
        counts: dict[str, int] = {}
        for key in self.points:
            if key.startswith(f"{measurement},"):
                user = key.split("user=")[1].split(" ")[0]
                counts[user] = counts.get(user, 0) + 1
        return counts


class Stand:
    """TimeSeriesWriter of a real store, with clocks that stand still until they are moved."""

    def __init__(self, folder, *, raw_days=30) -> None:
        self.folder, self._raw_days = folder, raw_days
        self.clock = ManualClock()
        self.now_seconds = 1000.0
        self.influx = FakeInflux()
        self.metrics = Metrics()
        self.store = Store(folder / "bridge.sqlite3")
        self.snapshots = self.open()

    def open(self):
        snapshots = TimeSeriesWriter(
            store=self.store,
            influx=self.influx,
            clock=self.clock,
            metrics=self.metrics,
            heartbeat_seconds=HEARTBEAT_SECONDS,
            raw_days=self._raw_days,
            monotonic_seconds=lambda: self.now_seconds,
            jitter=lambda: 0.0,
        )
        self.store.on_change = snapshots.mark_changed
        return snapshots

    def restart(self):
        """End the process and start another on the same store."""
        self.snapshots.close()
        self.store.close()
        self.store = Store(self.folder / "bridge.sqlite3")
        self.snapshots = self.open()

    def advance(self, seconds):
        self.now_seconds += seconds
        self.clock.advance(seconds=seconds)

    async def settle(self):
        """Do all that is due now; return how long there is nothing to do."""
        while not (pause_seconds := await self.snapshots.step()):
            pass
        return pause_seconds

    def open_account(self, name, **fields):
        self.store.accounts.save(account(panel_user(username=name, **fields)), at=NOW)

    def use(self, *names, total=gib(1)):
        seq = self.store.usage.cursor + 1
        changes = [
            UsageChange(username=n, total_bytes=total, raw_bytes=total, change_seq=seq)
            for n in names
        ]
        self.store.usage.record(changes, cursor=seq, runs=())

    def number(self, name, **labels):
        return self.metrics.registry.get_sample_value(name, labels)

    def close(self):
        self.snapshots.close()
        self.store.close()


@pytest.fixture
def stand(tmp_path):
    opened = Stand(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
async def quiet(stand):
    """A stand with three users, all written, and nothing due."""
    for name in ("alice", "bob", "carol"):
        stand.open_account(name)
    await stand.settle()
    stand.advance(GATHER_SECONDS)
    await stand.settle()
    stand.influx.points.clear()
    stand.influx.writes.clear()
    return stand


class TestResellers:
    """Resellers with a quota have points: on change, with all users, and a last one."""

    def quota(self, stand, **fields):
        values = {
            "admin": "shop",
            "quota_bytes": gib(4),
            "reset": ResellerReset.NEVER,
            "is_enforced": False,
            "used_bytes": gib(1),
            "period_started_at": NOW,
            "listed_at": NOW,
        }
        stand.store.resellers.set(Reseller(**values | fields), {}, actor="root", at=NOW)

    def points(self, stand):
        prefix = f"{RESELLER_USAGE.name},admin=shop,panel=default "
        return [rest for key, rest in stand.influx.points.items() if key.startswith(prefix)]

    async def advance(self, stand, seconds=GATHER_SECONDS):
        stand.advance(seconds)
        await stand.settle()

    async def test_without_a_quota_there_are_none(self, quiet):
        await self.advance(quiet, HEARTBEAT_SECONDS)
        assert self.points(quiet) == []

    async def test_on_change_with_all_users_and_at_the_end(self, quiet):
        self.quota(quiet)
        await self.advance(quiet)
        (first,) = self.points(quiet)
        assert f"quota_bytes={gib(4)}i,used_bytes={gib(1)}i,used_ratio=0.25," in first
        quiet.use("alice")
        await self.advance(quiet)
        assert len(self.points(quiet)) == 1, "nothing of it changed"
        self.quota(quiet, used_bytes=gib(5), is_enforced=True)
        await self.advance(quiet)
        assert "is_enforced=1i,is_cut_off=1i" in self.points(quiet)[-1]
        await self.advance(quiet, HEARTBEAT_SECONDS)
        assert len(self.points(quiet)) == 3
        quiet.store.resellers.unset("shop", actor="root", at=NOW)
        await self.advance(quiet)
        assert "quota_bytes=0i" in self.points(quiet)[-1]
        assert "is_gone=1i" in self.points(quiet)[-1]
        await self.advance(quiet, HEARTBEAT_SECONDS)
        assert len(self.points(quiet)) == 4

    async def test_an_outage_loses_no_change(self, quiet):
        quiet.influx.away = Retry("away")
        self.quota(quiet)
        await self.advance(quiet)
        quiet.influx.away = None
        await self.advance(quiet, 120)
        assert len(self.points(quiet)) == 1


class TestWhoIsWritten:
    """Everybody at the start and at the heartbeat; in between whoever changed."""

    async def test_at_its_start_everybody_is_written(self, stand):
        for name in ("alice", "bob"):
            stand.open_account(name)
        await stand.settle()
        assert stand.influx.of("user_usage") == {"alice": 1, "bob": 1}

    async def test_nothing_happens_until_something_changes(self, quiet):
        assert await quiet.settle() == pytest.approx(HEARTBEAT_SECONDS - GATHER_SECONDS)
        assert quiet.influx.writes == []

    async def test_at_the_heartbeat_everybody_is_written_changed_or_not(self, quiet):
        quiet.advance(await quiet.settle())
        await quiet.settle()
        assert quiet.influx.of("user_usage") == {"alice": 1, "bob": 1, "carol": 1}
        quiet.advance(HEARTBEAT_SECONDS)
        await quiet.settle()
        assert quiet.influx.of("user_usage") == {"alice": 2, "bob": 2, "carol": 2}

    async def test_a_page_of_the_feed_has_those_it_touches_written(self, quiet):
        quiet.use("alice", "bob")
        quiet.advance(GATHER_SECONDS)
        await quiet.settle()
        assert quiet.influx.of("user_usage") == {"alice": 1, "bob": 1}
        assert all(f"external_bytes={gib(1)}i" in rest for rest in quiet.influx.points.values())

    async def test_changes_gather_so_that_a_busy_user_is_written_once(self, quiet):
        for total in range(1, 30):
            quiet.use("alice", total=total)
            assert await quiet.settle() <= GATHER_SECONDS
            quiet.advance(GATHER_SECONDS / 30)
        assert quiet.influx.writes == []
        quiet.advance(GATHER_SECONDS / 30)
        await quiet.settle()
        assert [len(lines) for lines in quiet.influx.writes] == [1]
        assert "external_bytes=29i" in quiet.influx.writes[0][0]

    async def test_a_look_that_shows_nothing_new_is_no_change(self, quiet):
        later = NOW + timedelta(minutes=1)
        quiet.store.accounts.save(account(seen_at=later), at=later)
        quiet.advance(GATHER_SECONDS)
        await quiet.settle()
        assert quiet.influx.writes == []

    async def test_a_saved_change_is_written(self, quiet):
        quiet.open_account("alice", used_bytes=gib(2))
        quiet.advance(GATHER_SECONDS)
        await quiet.settle()
        assert quiet.influx.of("user_usage") == {"alice": 1}

    async def test_who_comes_new_is_written(self, quiet):
        quiet.open_account("dave")
        quiet.advance(GATHER_SECONDS)
        await quiet.settle()
        assert quiet.influx.of("user_usage") == {"dave": 1}

    async def test_many_users_take_several_requests_of_bounded_size(self, stand):
        names = [f"user{number:04}" for number in range(2 * PAGE + 5)]
        for name in names:
            stand.open_account(name)
        await stand.settle()
        assert [len(lines) for lines in stand.influx.writes] == [PAGE, PAGE, 5]
        assert sorted(stand.influx.of("user_usage")) == names

    async def test_as_many_users_as_a_request_takes_end_all_the_same(self, stand):
        for number in range(PAGE):
            stand.open_account(f"user{number:04}")
        await stand.settle()
        assert len(stand.influx.of("user_usage")) == PAGE


class TestEndOfASeries:
    """Where a user's points end, the last one says so, or its quota would be shown for an hour."""

    def delete(self, stand, name):
        event = Event(kind="deleted", text="gone")
        stand.store.departures.forget(name, event, username=name, at=stand.clock())

    def last_of(self, stand, admin="-"):
        """Return the time and the fields of alice's last point in the series of an admin."""
        tags = f"user_usage,admin={admin},panel=default,user=alice "
        found = {
            int(key.removeprefix(tags)): rest
            for key, rest in stand.influx.points.items()
            if key.startswith(tags)
        }
        at = max(found)
        return at, dict(each.split("=") for each in found[at].split(" ")[0].split(","))

    async def test_a_deleted_user_gets_one_last_point(self, quiet):
        self.delete(quiet, "alice")
        quiet.use("alice")
        quiet.advance(GATHER_SECONDS)
        await quiet.settle()
        _, fields = self.last_of(quiet)
        assert (fields["status"], fields["is_gone"]) == ('"deleted"', "1i")
        assert (fields["quota_bytes"], fields["used_ratio"]) == ("0i", "0.0")
        quiet.advance(HEARTBEAT_SECONDS)
        quiet.use("alice", total=gib(2))
        quiet.advance(GATHER_SECONDS)
        await quiet.settle()
        assert quiet.influx.of("user_usage")["alice"] == 1

    async def test_a_user_deleted_during_an_outage_gets_it_afterwards(self, quiet):
        quiet.influx.away = Retry("away")
        self.delete(quiet, "alice")
        quiet.advance(GATHER_SECONDS)
        await quiet.settle()
        quiet.influx.away = None
        quiet.advance(60)
        await quiet.settle()
        assert self.last_of(quiet)[1]["is_gone"] == "1i"

    async def test_a_user_deleted_before_a_restart_gets_it_then_and_the_same_one_again(self, quiet):
        deleted_at = quiet.clock()
        self.delete(quiet, "alice")
        for _ in range(2):
            quiet.restart()
            quiet.advance(3600)
            await quiet.settle()
        at, fields = self.last_of(quiet)
        assert fields["is_gone"] == "1i"
        assert at // 10**6 == int(deleted_at.timestamp() * 1000) + 1
        assert quiet.influx.of("user_usage")["alice"] == 1

    async def test_a_user_deleted_before_the_retention_gets_none_at_a_restart(self, quiet):
        self.delete(quiet, "alice")
        quiet.restart()
        quiet.advance(31 * 86_400)
        await quiet.settle()
        assert "alice" not in quiet.influx.of("user_usage")

    async def test_many_users_deleted_before_a_restart_take_several_requests(self, stand):
        names = [f"user{number:04}" for number in range(PAGE + 5)]
        for name in names:
            stand.open_account(name)
            self.delete(stand, name)
        await stand.settle()
        counts = [sum("is_gone=1i" in line for line in lines) for lines in stand.influx.writes]
        assert [count for count in counts if count] == [PAGE, 5]

    async def test_a_user_who_is_there_again_under_its_name_is_not_said_to_be_gone(self, quiet):
        self.delete(quiet, "alice")
        quiet.open_account("alice")
        quiet.restart()
        await quiet.settle()
        quiet.advance(GATHER_SECONDS)
        await quiet.settle()
        assert self.last_of(quiet)[1]["is_gone"] == "0i"

    async def test_a_user_of_another_admin_leaves_the_series_of_the_first(self, quiet):
        quiet.open_account("alice", admin="shop")
        quiet.advance(GATHER_SECONDS)
        await quiet.settle()
        ended_at, fields = self.last_of(quiet)
        assert (fields["status"], fields["is_gone"]) == ('"moved"', "1i")
        begun_at, fields = self.last_of(quiet, "shop")
        assert (fields["status"], fields["is_gone"]) == ('"active"', "0i")
        assert ended_at < begun_at, "by user alone, the newest point is that of the new series"


class TestMemory:
    """What is remembered is bounded by the number of accounts, however long InfluxDB is away."""

    async def test_names_without_an_account_are_not_remembered(self, quiet):
        quiet.use(*(f"nobody{number}" for number in range(500)))
        assert quiet.snapshots._changed == set()

    async def test_an_outage_gathers_names_of_accounts_and_nothing_else(self, quiet):
        quiet.influx.away = Retry("away")
        for total in range(200):
            quiet.use("alice", "bob", f"nobody{total}", total=total)
            quiet.store.events.record("alice", Event(kind="published", text="x"), at=NOW)
            quiet.advance(5)
            await quiet.settle()
        remembered = quiet.snapshots._changed | quiet.snapshots._being_written
        assert remembered <= {("default", "alice"), ("default", "bob")}
        names = {name for _, name in quiet.snapshots._written}
        assert names <= {"alice", "bob", "carol"}

    async def test_what_was_written_of_deleted_users_is_forgotten_at_the_heartbeat(self, quiet):
        event = Event(kind="deleted", text="gone")
        quiet.store.departures.forget("alice", event, username="alice", at=NOW)
        quiet.advance(HEARTBEAT_SECONDS)
        await quiet.settle()
        assert {name for _, name in quiet.snapshots._written} == {"bob", "carol"}


class TestEvents:
    """The audit trail is copied once, in order, behind a cursor that survives."""

    def record(self, stand, *texts, at=NOW):
        for text in texts:
            stand.store.events.record("alice", Event(kind="reset", text=text), at=at)

    def texts(self, stand):
        found = [rest for key, rest in stand.influx.points.items() if key.startswith("events,")]
        return [rest.split('text="')[1].split('"')[0] for rest in found]

    async def test_events_follow_after_a_while_and_once(self, stand):
        await stand.settle()
        self.record(stand, "one", "two")
        assert await stand.settle() <= GATHER_SECONDS
        assert self.texts(stand) == []
        stand.advance(GATHER_SECONDS)
        await stand.settle()
        assert self.texts(stand) == ["one", "two"]
        writes = len(stand.influx.writes)
        stand.restart()
        await stand.settle()
        assert len(stand.influx.writes) == writes

    async def test_many_events_take_several_requests(self, stand):
        self.record(stand, *map(str, range(PAGE + 1)))
        await stand.settle()
        assert [len(lines) for lines in stand.influx.writes] == [PAGE, 1]
        assert len(self.texts(stand)) == PAGE + 1

    async def test_the_cursor_moves_on_success_only(self, stand):
        stand.influx.away = Retry("away")
        self.record(stand, "one")
        await stand.settle()
        assert stand.store.meta("influx_events_cursor") is None
        stand.restart()
        stand.influx.away = None
        await stand.settle()
        assert self.texts(stand) == ["one"]
        assert stand.store.meta("influx_events_cursor") == "1"

    async def test_a_crash_before_the_cursor_writes_the_same_point_again(self, stand, monkeypatch):
        self.record(stand, "one", "two")

        def crash(key, value):
            raise OSError("the power failed")

        with monkeypatch.context() as patch:
            patch.setattr(stand.store, "set_meta", crash)
            with pytest.raises(OSError, match="power"):
                await stand.settle()
        before = dict(stand.influx.points)
        stand.restart()
        stand.advance(60)
        await stand.settle()
        assert len(stand.influx.writes) == 2
        assert stand.influx.points == before

    async def test_at_first_what_would_have_expired_is_not_sent(self, stand):
        self.record(stand, "old", at=NOW - timedelta(days=30))
        self.record(stand, "kept", at=NOW - timedelta(days=29))
        self.record(stand, "new")
        await stand.settle()
        assert self.texts(stand) == ["kept", "new"]

    async def test_what_expired_during_an_outage_is_not_sent(self, stand):
        self.record(stand, "first")
        await stand.settle()
        self.record(stand, "old")
        stand.influx.away = Retry("away")
        stand.advance(GATHER_SECONDS)
        await stand.settle()
        stand.advance(40 * 86400)
        stand.influx.away = None
        self.record(stand, "new", at=stand.clock())
        await stand.settle()
        assert self.texts(stand) == ["first", "new"]

    async def test_a_store_with_old_events_only_is_not_read_again(self, stand):
        self.record(stand, "old", at=NOW - timedelta(days=31))
        await stand.settle()
        assert stand.influx.writes == []
        self.record(stand, "new")
        stand.advance(GATHER_SECONDS)
        await stand.settle()
        assert self.texts(stand) == ["new"]


class TestOutages:
    """Away, refusing or misconfigured: the state is kept, the pauses grow, and it is said once."""

    async def test_what_changed_meanwhile_is_written_afterwards(self, quiet):
        quiet.influx.away = Retry("away")
        quiet.use("alice")
        quiet.advance(GATHER_SECONDS)
        await quiet.settle()
        quiet.use("bob")
        quiet.advance(100)
        quiet.influx.away = None
        await quiet.settle()
        assert quiet.influx.of("user_usage") == {"alice": 1, "bob": 1}

    async def test_an_interrupted_heartbeat_goes_on_where_it_was(self, stand):
        for number in range(2 * PAGE):
            stand.open_account(f"user{number:04}")
        await stand.snapshots.step()  # no events
        await stand.snapshots.step()
        stand.influx.away = Retry("away")
        pause_seconds = await stand.settle()
        stand.influx.away = None
        stand.advance(pause_seconds)
        await stand.settle()
        assert set(stand.influx.of("user_usage").values()) == {1}
        assert len(stand.influx.of("user_usage")) == 2 * PAGE

    async def test_pauses_grow_to_a_minute_and_begin_anew(self, quiet):
        quiet.influx.away = Retry("away")
        quiet.advance(HEARTBEAT_SECONDS)
        pauses = []
        for _ in range(10):
            pauses.append(await quiet.settle())
            quiet.advance(pauses[-1])
        assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]
        quiet.influx.away = None
        await quiet.settle()
        quiet.influx.away = Retry("away")
        quiet.advance(HEARTBEAT_SECONDS)
        assert await quiet.settle() == 0.5

    async def test_nothing_is_tried_during_a_pause(self, quiet):
        quiet.influx.away = Retry("away", after_seconds=20)
        quiet.use("alice")
        quiet.advance(GATHER_SECONDS)
        assert await quiet.settle() == 20
        tried = len(quiet.influx.writes)
        quiet.use("bob")
        quiet.advance(19)
        assert await quiet.settle() == 1
        assert len(quiet.influx.writes) == tried

    @pytest.mark.parametrize(("asked_seconds", "pause_seconds"), [(0.0, 0.5), (120.0, 120.0)])
    async def test_a_pause_that_was_asked_for_is_neither_undercut_nor_none(
        self, quiet, asked_seconds, pause_seconds
    ):
        quiet.influx.away = Retry("away", after_seconds=asked_seconds)
        quiet.use("alice")
        quiet.advance(GATHER_SECONDS)
        assert await quiet.settle() == pause_seconds

    async def test_retries_of_many_bridges_spread(self, quiet):
        quiet.snapshots._jitter = lambda: 1.0
        quiet.influx.away = Retry("away", after_seconds=20)
        quiet.use("alice")
        quiet.advance(GATHER_SECONDS)
        assert await quiet.settle() == 25

    async def test_a_halt_reads_the_token_anew_and_says_what_to_do(self, quiet):
        quiet.influx.away = Halt("401: see to INFLUXDB_TOKEN")
        quiet.use("alice")
        quiet.advance(GATHER_SECONDS)
        await quiet.settle()
        assert quiet.influx.closed == 1
        assert quiet.snapshots.outage.reason == "401: see to INFLUXDB_TOKEN"
        assert quiet.number("bridge_influx_up") == 0
        quiet.influx.away = None
        quiet.advance(60)
        await quiet.settle()
        written = quiet.influx.of("user_usage")
        assert set(written) == {"alice", "bob", "carol"}, "the bucket may have been made again"
        assert quiet.snapshots.outage.is_up
        assert quiet.number("bridge_influx_up") == 1

    async def test_it_is_logged_once_when_it_goes_and_once_when_it_is_back(self, quiet, caplog):
        caplog.set_level(logging.INFO)
        quiet.influx.away = Retry("does not answer")
        quiet.use("alice")
        for _ in range(20):
            quiet.advance(60)
            await quiet.settle()
        quiet.influx.away = None
        quiet.advance(60)
        await quiet.settle()
        assert [record.getMessage() for record in caplog.records] == [
            "InfluxDB: does not answer; will keep trying",
            "InfluxDB is back",
        ]

    async def test_until_it_was_tried_nobody_says_whether_it_is_up(self, stand):
        assert stand.number("bridge_influx_up") is None
        assert stand.snapshots.outage.is_up


class TestRefusals:
    """What InfluxDB will never store keeps nothing else from being stored."""

    async def test_the_rest_is_stored_and_both_are_counted(self, quiet):
        quiet.influx.refuses = lambda line: "user=bob" in line
        quiet.advance(HEARTBEAT_SECONDS)
        await quiet.settle()
        assert quiet.influx.of("user_usage") == {"alice": 1, "carol": 1}
        labels = {"measurement": "user_usage"}
        assert quiet.number("bridge_snapshot_points_total", **labels) == 3 + 2
        assert quiet.number("bridge_snapshot_refused_points_total", **labels) == 1

    async def test_a_name_without_a_spelling_is_counted_and_the_rest_is_stored(self, quiet):
        quiet.open_account("dave", admin="sh\nop")
        quiet.open_account("eve")
        quiet.store.events.record("a\nb", Event(kind="orphan", text="x"), at=NOW)
        quiet.advance(GATHER_SECONDS)
        await quiet.settle()
        assert quiet.influx.of("user_usage") == {"eve": 1}
        for measurement in ("user_usage", "events"):
            labels = {"measurement": measurement}
            assert quiet.number("bridge_snapshot_refused_points_total", **labels) == 1
        assert quiet.store.meta("influx_events_cursor") == "1"

    async def test_the_log_tells_one_in_ten_minutes(self, quiet, caplog):
        quiet.influx.refuses = lambda line: "user=bob" in line
        for total in range(10):
            quiet.use("bob", total=total)
            quiet.advance(50)
            await quiet.settle()
        (record,) = caplog.records
        assert "bob" in record.getMessage()
        assert "bad line" in record.getMessage()
        quiet.advance(HEARTBEAT_SECONDS)
        await quiet.settle()
        assert len(caplog.records) == 2


class TestRunning:
    """As a task it wakes up for changes, and outlives its own faults."""

    async def until(self, is_so):
        async with asyncio.timeout(120):
            while not is_so():
                await asyncio.sleep(0)

    async def test_a_change_wakes_it(self, stand):
        stand.open_account("alice")
        running = asyncio.create_task(stand.snapshots.run())
        await self.until(lambda: stand.influx.of("user_usage") == {"alice": 1})
        stand.use("alice")
        stand.now_seconds += GATHER_SECONDS
        stand.clock.advance(seconds=1)
        stand.snapshots._wake.set()  # what the clock would do
        await self.until(lambda: stand.influx.of("user_usage") == {"alice": 2})
        running.cancel()
        await asyncio.wait([running])

    async def test_a_defect_is_loud_and_tried_again(self, stand, monkeypatch, caplog):
        stand.open_account("alice")
        steps = []

        async def break_down():
            steps.append(1)
            raise ZeroDivisionError("a defect")

        with monkeypatch.context() as patch:
            patch.setattr(stand.snapshots, "step", break_down)
            running = asyncio.create_task(stand.snapshots.run())
            await self.until(lambda: bool(steps))
            assert "a defect" in stand.snapshots.outage.reason
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert record.exc_info
        stand.now_seconds += 60
        stand.snapshots._wake.set()  # what the clock would do
        await self.until(lambda: stand.snapshots.outage.is_up)
        assert stand.influx.of("user_usage") == {"alice": 1}
        running.cancel()
        await asyncio.wait([running])


async def test_users_and_events_of_all_panels_are_written_under_what_they_are_called_outside(stand):
    stand.store.configure(["default", "two"], shares_quotas=False)
    stand.restart()
    two = stand.store.of("two")
    stand.open_account("alice")
    event = Event(kind="reset", text="x")
    two.accounts.save(account(panel_user(username="alice", admin="shop")), [event], at=NOW)
    two.accounts.save(account(panel_user(username="bob")), at=NOW)
    await stand.settle()
    assert {key.split(" ")[0] for key in stand.influx.points} == {
        "user_usage,admin=-,panel=default,user=alice",
        "user_usage,admin=two/shop,panel=two,user=two/alice",
        "user_usage,admin=-,panel=two,user=two/bob",
        "events,kind=reset,panel=two,severity=notice,user=two/alice",
    }


class TestSummaries:
    """Lists and sums over all users follow what was written of each."""

    def last(self, stand, series):
        [found] = [each for each in stand.influx.summaries[-1] if each.startswith(series)]
        return found

    async def test_with_the_heartbeat_and_after_a_change(self, quiet):
        quiet.advance(HEARTBEAT_SECONDS)
        await quiet.settle()
        number = len(quiet.influx.summaries)
        assert "users=3i" in self.last(quiet, "reseller_users,admin=-")
        quiet.use("bob", total=gib(9))
        quiet.advance(APART_SECONDS)
        await quiet.settle()
        assert len(quiet.influx.summaries) == number + 1
        assert 'user="bob"' in self.last(quiet, "user_lists,list=near,rank=01 ")
        assert "near=1i" in self.last(quiet, "user_counts,panel=default ")

    async def test_what_could_not_be_written_is_written_later(self, quiet):
        quiet.influx.away = Retry("away")
        quiet.use("bob", total=gib(11))
        quiet.advance(APART_SECONDS)
        await quiet.snapshots.step()
        quiet.influx.away = None
        quiet.advance(HEARTBEAT_SECONDS)
        await quiet.settle()
        assert 'user="bob"' in self.last(quiet, "user_lists,list=over,rank=01 ")
