"""Voids and adjustments from the command line, beside a whole collector and without one."""

from __future__ import annotations

import asyncio
from contextlib import closing

import pytest

from collector.cli.main import main
from collector.ledger.sqlite.reader import SqliteReader
from collector.ledger.sqlite.writer import SqliteLedger
from tests.support.collector.collectors import AS_OTHER, AS_REPORTER, CollectorWorld, running, wire
from tests.support.collector.ledgers import NOON_MILLIS, batch, report


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A ledger's place that the command line is told of; no `.env` is near."""
    monkeypatch.chdir(tmp_path)
    for name in ("COLLECTOR_REPORTER_KEYS", "COLLECTOR_ADMIN_KEY", "MARZBAN_URL"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "ledger.sqlite3"
    monkeypatch.setenv("LEDGER_URL", f"sqlite:///{path}")
    monkeypatch.setenv("COLUMNS", "200")
    return path


@pytest.fixture
def filled(path):
    with closing(SqliteLedger(path)) as ledger:
        ledger.record(
            [
                batch(report("alice", up=103_000_000_000, down=0, key="spike")),
                batch(report("alice", up=5), report("bob", up=7), reporter="reporter:honest"),
            ],
            received_at_millis=NOON_MILLIS,
        )
    return path


SINCE = "2024-10-04T11:00Z"


def test_without_yes_it_says_what_whose_and_how_much_and_changes_nothing(filled, capsys):
    assert main(["void", "--reporter", "r", "--since", SINCE]) == 0
    shown = capsys.readouterr().out
    assert "alice" in shown
    assert "103,000,000,000" in shown
    assert "Nothing was changed. The same with --yes carries it out." in shown
    with closing(SqliteReader(filled)) as reader:
        assert reader.corrections(limit=9) == []
        assert reader.facts().upload_bytes == 103_000_000_012


def test_with_yes_it_is_carried_out_where_no_collector_runs_and_listed(filled, capsys):
    words = ["void", "--reporter", "r", "--since", SINCE, "--yes", "--reason", "stolen key"]
    assert main(words) == 0
    assert "1 reports voided, -103,000,000,000 bytes" in capsys.readouterr().out
    assert main(["corrections"]) == 0
    shown = capsys.readouterr().out
    assert "stolen key" in shown
    assert "void reporter:r" in shown
    assert main(words) == 0
    assert "1 reports of it were voided before" in capsys.readouterr().out
    assert main(["check"]) == 0
    assert "-103000000000 bytes" in capsys.readouterr().out
    with closing(SqliteReader(filled)) as reader:
        assert reader.facts().upload_bytes == 12
        assert len(reader.corrections(limit=9)) == 1


def test_a_key_that_is_still_valid_is_told(filled, capsys):
    assert main(["reporters", "add", "r"]) == 0
    assert main(["void", "--reporter", "r", "--since", "1d"]) == 0
    shown = capsys.readouterr().out
    assert "The key of r is valid" in shown
    assert "There is nothing to void" in shown


def test_an_adjustment_is_shown_carried_out_and_refused_where_it_cannot_be_true(filled, capsys):
    words = ["adjust", "bob", "--bytes=-4", "--reason", "counted twice"]
    assert main(words) == 0
    assert "It has 9 bytes in all, 9 billed." in capsys.readouterr().out
    assert main([*words, "--yes"]) == 0
    assert main(["adjust", "bob", "--bytes=-6", "--reason", "x", "--yes"]) == 1
    assert "bob has 5 bytes in all, less than 6" in capsys.readouterr().err
    with closing(SqliteReader(filled)) as reader:
        assert sum(it.billed_bytes for it in reader.servers_of("bob", since_day=None)) == 5
        assert reader.audit().problems == []


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["void", "--reporter", "r", "--since", "yesterday"], "expected a time such as"),
        (["void", "--reporter", "r", "--since", "2099-01-01"], "must be before --until"),
        (["adjust", "bob", "--bytes", "1.5", "--reason", "x"], "expected whole bytes"),
        (["adjust", "bob", "--bytes", "0", "--reason", "x"], "expected a number other than 0"),
        (["adjust", "bob", "--bytes", "1"], "--reason is required"),
        (
            ["adjust", "bob", "--bytes", "1", "--reason", "x", "--port", "1"],
            "give all three, or none",
        ),
        (["adjust", "bob", "--bytes", "1", "--reason", "x", "--day", "2099-01-01"], "before today"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(filled, capsys, words, complaint):
    assert main(words) == 1
    assert complaint in " ".join(capsys.readouterr().err.split())


@pytest.fixture
async def world(path):
    async with running(CollectorWorld(path=path)) as world:
        yield world


async def test_a_running_collector_carries_out_what_is_asked_for_beside_it(world, capsys):
    await world.send([wire(report_id="a"), wire("bob")])
    await world.send(wire(), headers=AS_OTHER)
    words = ["void", "--reporter", "r", "--since", SINCE, "--user", "alice", "--yes"]
    assert await asyncio.to_thread(main, words) == 0
    assert "1 reports voided, -30 bytes" in capsys.readouterr().out
    page = await world.get("/v1/usage/changes")
    alice = next(each for each in page["changes"] if each["username"] == "alice")
    assert (alice["download_bytes"], alice["corrected_download_bytes"]) == (40, -20)
    assert (alice["corrected_upload_bytes"], alice["corrected_billed_bytes"]) == (-10, -30)
    assert (await world.get("/v1/usage/alice"))["download_bytes"] == 20
    assert (await world.get("/v1/usage"))["reports"] == 2
    again = await world.send(wire(report_id="a"), headers=AS_REPORTER)
    assert again.json()["duplicates"] == 1
    (entry,) = (await world.get("/v1/corrections"))["corrections"]
    assert (entry["kind"], entry["scope"], entry["reports"]) == ("void", "reporter:r", 1)
    found = await world.get(
        "/v1/corrections/sum",
        username="alice",
        after_seq=0,
        through_seq=page["head"],
        period_seq=0,
        period_since="2024-01-01T00:00:00Z",
    )
    assert (found["billed_bytes"], found["period_raw_bytes"]) == (-30, -30)


async def test_who_waits_at_the_feed_is_told_of_a_correction(world):
    await world.send(wire())
    waiting = asyncio.create_task(world.get("/v1/usage/changes", after=1, wait=30))
    await asyncio.to_thread(
        main, ["void", "--reporter", "r", "--since", SINCE, "--until", "2099-01-01", "--yes"]
    )
    async with asyncio.timeout(25):
        page = await waiting
    assert [each["username"] for each in page["changes"]] == ["alice"]


async def test_what_a_crash_left_open_is_carried_out_by_the_next_collector(path):
    with closing(SqliteLedger(path)) as ledger:
        ledger.record([batch(report("alice"))], received_at_millis=NOON_MILLIS)
    from collector.ledger.corrections import Kind, Wanted  # noqa: PLC0415
    from collector.ledger.engines import backend_of  # noqa: PLC0415

    backend_of(f"sqlite:///{path}").ask_correction(
        Wanted(
            kind=Kind.VOID,
            reason="",
            actor="root",
            scope="reporter:r",
            since_millis=0,
            until_millis=2 * NOON_MILLIS,
        ),
        asked_at_millis=NOON_MILLIS,
    )
    async with running(CollectorWorld(path=path)) as world:
        await world.app.state.collector.corrections.carry_out_open()
        assert (await world.get("/v1/usage"))["reports"] == 0
