"""A store in PostgreSQL that lacks commits, or was moved unseen, is in doubt; any other is not."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess

import psycopg
import pytest

from marzban_bridge.errors import NotLeadingError
from marzban_bridge.quota.account import Event
from marzban_bridge.store.postgres import schema as shared_schema
from marzban_bridge.store.postgres.database_mark import place_of
from marzban_bridge.store.postgres.leadership import Leadership
from marzban_bridge.store.postgres.lease import Lease, LeaseRow
from marzban_bridge.store.postgres.link import open_connection
from marzban_bridge.store.postgres.terms import TOKEN_BYTES
from marzban_bridge.store.store import Store
from tests.support.bridge.bridge_builders import NOW, account
from tests.support.bridge.shared_stores import lead, open_shared
from tests.support.engines import postgres_server
from tests.support.engines.postgres_pair import PostgresPair
from tests.support.engines.postgres_server import PASSWORD

LEASE_SECONDS = 4
OUTLASTS_ALL_SECONDS = 200
"""A lease that no failover on a busy machine outlasts."""
HELLO = Event(kind="adopted", text="hello")


@pytest.fixture
def url(postgres):
    return postgres.url(postgres.new_database())


def ask(url, query):
    with psycopg.connect(url, options="-c search_path=bridge", autocommit=True) as db:
        found = db.execute(query)
        return found.fetchall() if found.description else []


class Bridge:
    """One process's part in leading, without the work."""

    def __init__(self, url: str, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self.leadership = Leadership(url, lease=Lease(lease_seconds))
        self.store: Store | None = None
        self._led = asyncio.Event()
        self._task = asyncio.create_task(self.leadership.run(self._lead))

    async def _lead(self, store: Store) -> None:
        self.store = store
        self._led.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.store = None
            self._led.clear()

    async def until_leading(self) -> Store:
        """Wait until it leads, and return what it has opened."""
        async with asyncio.timeout(120):
            await self._led.wait()
        assert self.store is not None
        return self.store

    async def until(self, holds) -> None:
        """Wait until something holds."""
        async with asyncio.timeout(120):
            while not holds():
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """End it as a machine ends: the lease is not given back."""
        self.leadership.lease.token = None
        await self.end()

    async def end(self) -> None:
        """End it in good order."""
        self._task.cancel()
        await asyncio.wait([self._task])


@contextlib.asynccontextmanager
async def bridges(*urls, **options):
    opened = [Bridge(url, **options) for url in urls]
    try:
        yield opened[0] if len(opened) == 1 else opened
    finally:
        for each in opened:
            await each.end()


async def doubt_of(url):
    """Return what a bridge that is started now says of the store."""
    async with bridges(url) as bridge:
        return (await bridge.until_leading()).suspended


def write(store, number):
    store.accounts.save(account(write_number=number), [HELLO], at=NOW)


@pytest.fixture
def pair():
    opened = PostgresPair()
    yield opened
    opened.close()


async def test_a_failover_is_told_by_what_a_bridge_that_lived_through_it_misses(pair):
    """Of four stores one loses commits, one nothing, one had no bridge, one a bridge that died."""
    lagging, whole, unseen, left = (pair.url(pair.primary.new_database()) for _ in range(4))
    async with bridges(unseen) as bridge:
        write(await bridge.until_leading(), 1)
    assert await doubt_of(unseen) is None
    async with contextlib.AsyncExitStack() as opened:
        one, dead = await opened.enter_async_context(bridges(lagging, left))
        two = await opened.enter_async_context(bridges(whole, lease_seconds=OUTLASTS_ALL_SECONDS))
        write(await dead.until_leading(), 1)
        heir = await opened.enter_async_context(bridges(left))
        await heir.until(lambda: heir.leadership.leader is not None)
        before, kept = await one.until_leading(), await two.until_leading()
        for store in (before, kept):
            write(store, 1)
        await asyncio.to_thread(pair.detach)
        write(before, 2)
        epoch = one.leadership.lease.epoch
        await asyncio.gather(dead.kill(), asyncio.to_thread(pair.fail_over))

        await one.until(lambda: one.store not in {None, before})
        after = await one.until_leading()
        assert "lacks commits" in after.suspended
        assert after.events.newest()[0].event.kind == "conflict"
        assert one.leadership.lease.epoch > epoch
        after.resume()

        timeline = "SELECT split_part(mark, ':', 2) FROM lease"
        await two.until(lambda: ask(whole, timeline) == [("00000002",)])
        assert two.store is kept, "it leads all the while"

        text = (await heir.until_leading()).suspended
        assert "no bridge ran before and after it" in text, (
            "what the leader did last the other cannot miss"
        )
    assert await doubt_of(lagging) is None, "it is said once"
    assert await doubt_of(whole) is None
    assert "another database, or on another timeline" in await doubt_of(unseen)
    assert "another database" in await doubt_of(unseen), "over restarts"


@pytest.mark.parametrize(
    ("led_by", "waits_for_standby", "is_known"),
    [
        ("another", False, False),  # which may have committed since the look
        ("another", True, True),
        ("", False, True),  # it was given back
        ("ours", False, True),
    ],
)
def test_who_follows_would_miss_what_is_lost_only_where_commits_wait(
    led_by, waits_for_standby, is_known
):
    lease = Lease()
    lease.token = "ours"
    lease.marks = {"before"}
    lease.row = LeaseRow(led_by, "host:1", 1, NOW, False, 0, "", "", "before")
    lease.saw("now", waits_for_standby=waits_for_standby)
    assert lease.marks == ({"before", "now"} if is_known else set())


async def test_a_restored_dump_puts_the_store_in_doubt(url, tmp_path):
    async with bridges(url) as bridge:
        write(await bridge.until_leading(), 1)
    folder, dump = postgres_server.binaries(), tmp_path / "store.dump"
    for command in (
        [folder / "pg_dump", "--format=custom", "--schema=bridge", f"--file={dump}", url],
        [folder / "psql", "-c", "DROP SCHEMA bridge CASCADE", url],
        [folder / "pg_restore", f"--dbname={url}", dump],
    ):
        await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    assert "a backup was restored" in await doubt_of(url)


async def test_a_loss_that_a_follower_finds_is_the_leaders_to_act_on(url):
    async with bridges(url) as leader:
        store = await leader.until_leading()
        write(store, 1)
        async with bridges(url) as follower:
            await follower.until(lambda: follower.leadership.lease.known is not None)
            # As after a failover: another term, which began without the one that was seen.
            token = "f" * 2 * TOKEN_BYTES
            ask(
                url,
                f"UPDATE lease SET token = '{token}', former = '', "
                "expires_at = statement_timestamp() + interval '2 seconds'",
            )
            await follower.until(lambda: ask(url, "SELECT loss FROM lease") != [("",)])
            opened = (leader, follower)
            await leader.until(lambda: any(each.store and each.store.suspended for each in opened))
    assert ask(url, "SELECT loss FROM lease") == [("",)]
    assert "lacks commits" in await doubt_of(url)


async def test_a_leader_is_told_of_a_loss_while_it_leads(url):
    async with bridges(url) as bridge:
        store = await bridge.until_leading()
        ask(url, "UPDATE lease SET loss = 'commits are missing, said another bridge'")
        await bridge.until(lambda: store.suspended is not None)
        assert store.suspended == "commits are missing, said another bridge"


def test_nothing_is_written_where_commits_are_missing(url):
    store, _ = open_shared(url)
    write(store, 1)
    write(store, 2)
    ask(url, "UPDATE lease SET commits = commits - 1")
    with pytest.raises(NotLeadingError, match="lacks commits of this one"):
        write(store, 3)
    assert ask(url, "SELECT count(*) FROM event") == [(2,)]
    store.close()


def test_an_epoch_that_was_lost_is_not_given_out_again(url):
    first = lead(url)
    ask(url, "UPDATE lease SET epoch = 3")  # a standby that lagged, or an old backup
    assert lead(url).epoch > first.epoch


async def test_a_lease_of_an_earlier_version_is_brought_forward(url):
    store, _ = open_shared(url)
    write(store, 1)
    store.close()
    for column in ("commits", "former", "loss", "mark"):
        ask(url, f"ALTER TABLE lease DROP COLUMN {column}")
    ask(url, "UPDATE lease SET token = 'of16characters--', expires_at = statement_timestamp()")
    shared_schema.prepare(url)
    async with bridges(url) as bridge:
        again = await bridge.until_leading()
        assert again.suspended is None
        assert again.accounts.get("alice").write_number == 1
    ((led_in,),) = ask(url, "SELECT mark FROM lease")
    assert led_in


async def test_a_bridge_of_an_earlier_version_that_leads_in_between_is_no_loss(url):
    old = "0123456789abcdef"
    async with bridges(url) as bridge:
        write(await bridge.until_leading(), 1)
        lease = bridge.leadership.lease
        ask(
            url,
            f"UPDATE lease SET token = '{old}', holder = 'old', epoch = epoch + 1, "
            "expires_at = statement_timestamp() + interval '2 seconds'",
        )
        await bridge.until(lambda: lease.row.token == old)
        assert lease.missing is None
        assert (await bridge.until_leading()).suspended is None


def test_a_user_with_no_rights_but_its_own_database_is_told_where_the_store_is(postgres, url):
    database = url.rpartition("/")[2]
    ask(url, f"CREATE ROLE r_{database} LOGIN PASSWORD '{PASSWORD}'")
    ask(url, f"ALTER DATABASE {database} OWNER TO r_{database}")
    plain = f"postgresql://r_{database}:{PASSWORD}@127.0.0.1:{postgres.port}/{database}"
    shared_schema.prepare(plain)
    db = open_connection(plain)
    assert place_of(db).mark.count(":") == 3
    assert not place_of(db).waits_for_standby
    db.close()
