"""Collectors that share a ledger in PostgreSQL, over HTTP and from the command line."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import AsyncExitStack, closing

import psycopg
import pytest

from collector.cli import main as cli
from collector.errors import LedgerError, SettingsError
from collector.ledger import engines as place
from collector.ledger import url as ledger_url
from collector.ledger.postgres.backend import PostgresBackend
from collector.ledger.postgres.writer import PostgresLedger
from collector.ledger_gauges import refresh
from collector.reports.billing import Ratio
from tests.support.collector.collectors import (
    ALICE_TOKEN,
    AS_ADMIN,
    BOB_TOKEN,
    CollectorWorld,
    running,
    wire,
)
from tests.support.collector.ledgers import NOON_MILLIS, batch, report
from tests.support.engines.postgres_server import PASSWORD


@pytest.fixture
async def start(tmp_path, url):
    """Start a collector on the ledger; the first one leads."""
    async with AsyncExitStack() as stack:

        async def start(ledger_url: str = url, **environment: str) -> CollectorWorld:
            world = CollectorWorld(
                path=tmp_path / "unused", environment={"LEDGER_URL": ledger_url} | environment
            )
            return await stack.enter_async_context(running(world))

        yield start


async def eventually(what, holds, *, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not (found := await holds()):
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        await asyncio.sleep(0.02)
    return found


def leads(world):
    return world.app.state.collector.ingest.leads


async def test_a_sender_has_its_bound_once_with_a_sixteenth_more_for_each_collector(start):
    """As decision 0017 says; each report is below the part that passes without a reading."""
    small = {f"COLLECTOR_USER_{span}_BYTES": "16000" for span in ("REQUEST", "HOUR", "DAY")}
    worlds = [await start(**small, COLLECTOR_USER_REQUESTS_PER_SECOND="0") for _ in range(2)]
    mine = wire(ALICE_TOKEN, bytes_uploaded=450, bytes_downloaded=450)
    statuses = [(await worlds[n % 2].send(mine, headers={})).status_code for n in range(30)]
    taken_bytes = 900 * statuses.count(200)
    assert 16_000 - 900 < taken_bytes <= 16_000 + 2 * 1000
    assert statuses[-6:] == [429] * 6
    assert (await worlds[0].send(wire(BOB_TOKEN), headers={})).status_code == 200
    assert await worlds[0].totals() == {"alice": taken_bytes, "bob": 30}


async def test_what_any_of_them_took_all_of_them_show_at_once(start):
    first, second = await start(), await start()
    assert (leads(first), leads(second)) == (True, False)
    await second.send(wire(report_id="a"))
    await first.send(wire("bob", report_id="b"))
    again = (await first.send(wire(report_id="a"))).json()
    assert (again["accepted"], again["duplicates"]) == (0, 1)
    for world in (first, second):
        assert await world.totals() == {"alice": 30, "bob": 30}
        assert (await world.get("/v1/usage"))["reports"] == 2


async def test_a_reader_that_waits_at_one_hears_of_what_another_took(start):
    first, second = await start(), await start()
    for waits_at, sends_to in ((second, first), (first, second), (second, second)):
        head = (await first.get("/v1/usage/changes"))["head"]
        waiting = asyncio.create_task(waits_at.get("/v1/usage/changes", after=head, wait=30))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        sent_at = time.monotonic()
        await sends_to.send(wire())
        page = await waiting
        assert time.monotonic() - sent_at < 25  # not at the end of its 30 s
        assert [each["username"] for each in page["changes"]] == ["alice"]


async def test_all_readers_of_one_process_look_once(start, monkeypatch):
    first = await start()
    looks = []
    ledger = first.app.state.collector.ingest._ledger
    lead = ledger.lead
    monkeypatch.setattr(ledger, "lead", lambda **how: (looks.append(1), lead(**how))[1])
    waiting = [
        asyncio.create_task(first.get("/v1/usage/changes", after=0, wait=1)) for _ in range(20)
    ]
    await asyncio.gather(*waiting)
    assert 1 <= len(looks) <= 8


async def test_reporters_and_ratios_hold_at_all_of_them(start):
    first, second = await start(), await start()
    key = first.app.state.collector.backend.add_reporter("node", now_millis=1)
    first.app.state.collector.backend.set_ratio(Ratio("de-1", 2000, 0))
    headers = {"authorization": f"Bearer {key}"}
    for world in (first, second):
        world.app.state.collector.rules._rules = None
        assert (await world.send(wire(), headers=headers)).status_code == 200
    assert (await second.get("/v1/usage"))["billed_bytes"] == 2 * 60


async def test_readers_of_the_feed_report_positions_at_any_of_them(start):
    first, second = await start(), await start()
    path, told = f"/v1/readers/{'1' * 32}", {"position": 7, "mark": "aa", "panel": "cc"}
    assert (await first.client.put(path, json=told, headers=AS_ADMIN)).json() == told
    assert await second.get(path) == told
    older = told | {"position": 3}
    assert (await second.client.put(path, json=older, headers=AS_ADMIN)).json() == told
    assert (await first.get("/v1/readers"))["readers"] == [told | {"reader": "1" * 32}]


async def test_the_ledger_is_shown_without_its_password(start, url):
    first = await start()
    for path in ("/v1/database", "/api/xpert/traffic-stats/database/info", "/readyz", "/metrics"):
        answer = await first.client.get(path, headers=AS_ADMIN)
        assert answer.status_code == 200
        assert PASSWORD not in answer.text
    facts = await first.get("/v1/database")
    assert facts["location"] == url.replace(f":{PASSWORD}@", "@")
    assert facts["size_bytes"] > 100_000


async def test_a_cleanup_works_at_any_of_them(start):
    first, second = await start(), await start()
    await first.send(wire())
    await first.get("/v1/usage")
    await first.let_days_pass(40)
    second.now_millis = first.now_millis
    answer = await second.client.post("/v1/maintenance/cleanup?days=30", headers=AS_ADMIN)
    assert answer.json()["removed_reports"] == answer.json()["removed_day_rows"] == 1
    assert await first.totals() == {"alice": 30}


async def test_one_of_them_shows_what_is_true_of_the_ledger(start):
    first, second = await start(), await start()
    await second.send(wire())
    await second.get("/v1/usage")
    texts = []
    for world in (first, second):
        await refresh(world.app.state.collector)
        texts.append((await world.client.get("/metrics")).text)
    assert "collector_ledger_users 1.0" in texts[0]
    assert "collector_leads 1.0" in texts[0]
    assert "collector_ledger_users 0.0" in texts[1]
    assert "collector_leads 0.0" in texts[1]
    assert "ledger_free_disk_bytes" not in "".join(texts)  # it is the server's


class TestWithoutTheServer:
    async def test_reports_are_refused_for_now_and_taken_when_it_is_back(
        self, start, proxy, postgres, database, monkeypatch
    ):
        monkeypatch.setattr("collector.ledger.postgres.link.ANSWER_SECONDS", 1)
        monkeypatch.setattr("collector.ledger.postgres.link.PATIENT_ANSWER_SECONDS", 1)
        for name in ("ANSWER_SECONDS", "PATIENT_ANSWER_SECONDS"):
            monkeypatch.setattr(f"collector.ledger.postgres.reader.{name}", 1)
        monkeypatch.setattr("collector.ledger.postgres.reader.GET_SECONDS", 0.5)
        for name in ("reader", "recording"):
            monkeypatch.setattr(f"collector.ledger.postgres.{name}.AGAIN_SECONDS", 0.5)
        world = await start(postgres.url(database, port=proxy.port))
        assert (await world.send(wire(report_id="a"))).status_code == 200
        assert (await world.client.get("/readyz")).status_code == 200
        proxy.freeze()
        answers = await asyncio.gather(*(world.send(wire(report_id=f"{n}")) for n in range(8)))
        assert {each.status_code for each in answers} == {503}
        assert all(int(each.headers["retry-after"]) >= 1 for each in answers)
        unready = await world.client.get("/readyz")
        assert unready.status_code == 503
        assert "the ledger" in " ".join(unready.json()["reasons"])
        statistics = await world.client.get("/v1/usage", headers=AS_ADMIN)
        assert statistics.status_code == 503
        for text in (unready.text, statistics.text, *(each.text for each in answers)):
            assert PASSWORD not in text
        proxy.thaw()

        async def is_ready():  # nobody sends anything meanwhile
            return (await world.client.get("/readyz")).status_code == 200

        await eventually("ready again", is_ready)

        async def is_taken():
            answer = await world.send([wire(report_id=f"{n}") for n in ("a", *range(8))])
            return answer.status_code == 200

        await eventually("taken", is_taken)

        async def is_counted():
            answer = await world.client.get("/v1/usage", headers=AS_ADMIN)
            return answer.status_code == 200 and answer.json()["reports"] == 9

        await eventually("counted once", is_counted)

    async def test_what_is_taken_while_nobody_leads_is_counted_when_somebody_does(
        self, start, url, monkeypatch
    ):
        monkeypatch.setattr("collector.ledger.postgres.reader.CATCH_UP_SECONDS", 0.3)
        execute(url, "CREATE SCHEMA IF NOT EXISTS traffic")
        world = await start()
        await world.get("/v1/usage")
        execute(
            url,
            "UPDATE traffic.lease SET token = 'another', epoch = epoch + 1, "
            "expires_at = statement_timestamp() + interval '2 seconds'",
        )
        await asyncio.sleep(0.6)
        assert (await world.send(wire())).status_code == 200
        behind = await world.client.get("/v1/usage", headers=AS_ADMIN)
        if behind.status_code != 200:
            assert "not added up yet" in behind.json()["detail"]

        async def is_counted():
            answer = await world.client.get("/v1/usage", headers=AS_ADMIN)
            return answer.status_code == 200 and answer.json()["reports"] == 1

        await eventually("counted", is_counted)


def execute(url, statement):
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(statement)


class TestCommands:
    @pytest.fixture
    def run(self, url, monkeypatch, capsys, tmp_path):
        monkeypatch.setenv("LEDGER_URL", url)
        monkeypatch.chdir(tmp_path)

        def run(*arguments, code=0):
            found = cli.main(arguments)
            written = capsys.readouterr()
            assert found == code, written
            assert PASSWORD not in written.out + written.err
            return " ".join((written.out + written.err).split())

        return run

    def test_reporters_are_made_shown_changed_and_revoked(self, run):
        assert "rk_" in run("reporters", "add", "node", "--outside-quota")
        assert "there is a reporter 'node' already" in run("reporters", "add", "node", code=1)
        assert "outside" in run("reporters", "list")
        run("reporters", "change", "node", "--counts")
        run("reporters", "revoke", "node")
        assert "revoked" in run("reporters", "list")
        assert "no reporter" in run("reporters", "revoke", "node", code=1)
        assert "name is 1 to 64" in run("reporters", "add", "no way", code=1)

    def test_ratios_are_set_shown_and_cleared(self, run):
        assert "is billed 2 times" in run("ratios", "set", "de-1", "2")
        assert "(before: 2)" in run("ratios", "set", "de-1", "3")
        assert "de-1" in run("ratios", "list")
        run("ratios", "clear", "de-1")
        assert "has no ratio" in run("ratios", "clear", "de-1", code=1)

    def test_a_ledger_is_checked(self, run, url):
        run("reporters", "add", "node")
        assert "is whole and its sums agree" in run("check")
        execute(url, "INSERT INTO traffic.user_total VALUES ('x', 1, 1, 2, 1, 0, 1)")
        assert "is NOT whole" in run("check", code=1)

    def test_an_export_is_shown_and_begun_anew(self, run, monkeypatch):
        run("reporters", "add", "node")
        assert "up to report" in run("export", "status")
        monkeypatch.setenv("INFLUXDB_URL", "http://127.0.0.1:1")
        assert "written again" in run("export", "rebuild")

    def test_what_only_a_file_can_do_says_what_to_do_instead(self, run, tmp_path):
        assert "pg_dump" in run("backup", str(tmp_path / "copy"), code=1)

    def test_a_correction_that_is_requested_waits_while_the_lease_is_locked(
        self, run, url, monkeypatch
    ):
        """As by a collector whose step of a correction lasts; it failed after it was requested."""
        monkeypatch.setattr("collector.ledger.postgres.link.LOCK_SECONDS", 0.1)
        monkeypatch.setattr("collector.cli.correction_run.TRY_HERE_SECONDS", 0.1)
        with closing(PostgresLedger(url)) as ledger:
            ledger.record([batch(report("alice"))], received_at_millis=NOON_MILLIS)
        opened, locked_out = PostgresBackend.open, []

        def open_ledger(backend):
            try:
                return opened(backend)
            except LedgerError as error:
                locked_out.append(str(error))
                if len(locked_out) == 2:
                    holder.rollback()
                raise

        monkeypatch.setattr(PostgresBackend, "open", open_ledger)
        with psycopg.connect(url) as holder:
            holder.execute("SELECT 1 FROM traffic.lease FOR UPDATE")
            done = run("adjust", "alice", "--bytes", "7", "--reason", "a test", "--yes")
        assert "Correction 1: 0 reports voided, +7 bytes" in done
        assert ["lock timeout" in each for each in locked_out] == [True, True]

    def test_a_server_that_is_not_there_is_one_line(self, run, monkeypatch):
        monkeypatch.setenv("LEDGER_URL", f"postgresql://owner:{PASSWORD}@127.0.0.1:1/x")
        monkeypatch.setenv("COLLECTOR_PORT", "0")  # 8080 may be another program's
        monkeypatch.setattr(cli, "PATIENCE_SECONDS", 0)
        for command in (("serve",), ("check",), ("reporters", "list")):
            assert "error: the ledger postgresql://owner@127.0.0.1:1/x" in run(*command, code=1)


def test_a_driver_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(ledger_url, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"\[postgres\]"):
        place.backend_of("postgresql://u:p@h/d")


def test_a_process_with_a_file_does_not_carry_the_driver(tmp_path):
    program = "import collector.app, json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "psycopg" not in json.loads(done.stdout)


@pytest.fixture
def small_disk(postgres, tmp_path_factory):
    """A database on a disk of its own that is soon full, and a way to make room on it."""
    if os.geteuid() != 0:
        pytest.skip("to mount a small disk needs root")
    folder = postgres.home / f"disk-{time.monotonic_ns()}"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs may be mounted here: {mounted.stderr.decode()}")
    name = folder.name.replace("-", "_")
    try:
        subprocess.run(["chown", "--reference", postgres.data, folder], check=True)
        execute(postgres.url("postgres"), f"CREATE TABLESPACE {name} LOCATION '{folder}'")
        execute(postgres.url("postgres"), f"CREATE DATABASE {name} TABLESPACE {name}")
        yield (
            postgres.url(name),
            lambda: subprocess.run(["mount", "-o", "remount,size=256m", folder], check=True),
        )
        execute(postgres.url("postgres"), f"DROP DATABASE {name} WITH (FORCE)")
        execute(postgres.url("postgres"), f"DROP TABLESPACE {name}")
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


async def test_a_full_disk_of_the_server_is_507_and_nothing_acknowledged_is_lost(
    small_disk, tmp_path
):
    url, make_room = small_disk
    world = CollectorWorld(path=tmp_path / "unused", environment={"LEDGER_URL": url})
    async with running(world):
        taken = 0
        for number in range(60):
            reports = [wire(f"u{n}", report_id=f"{number}-{n}") for n in range(2000)]
            answer = await world.send(reports)
            if answer.status_code != 200:
                break
            taken += 2000
        assert answer.status_code == 507, answer.text
        assert "the disk under the ledger" in answer.json()["detail"]
        assert (await world.client.get("/readyz")).status_code == 503
        make_room()

        async def is_taken():
            return (await world.send(reports)).status_code == 200

        await eventually("taken again", is_taken)

        async def is_counted():
            answer = await world.client.get("/v1/usage", headers=AS_ADMIN)
            return answer.status_code == 200 and answer.json()["reports"] == taken + 2000

        await eventually("counted", is_counted)
        assert (await world.client.get("/readyz")).status_code == 200
