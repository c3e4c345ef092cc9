"""Ratios and reporters outside the quota, through a whole collector and its command line."""

from __future__ import annotations

import re
from contextlib import closing

import pytest

from collector.cli.main import main
from collector.intake.rules_cache import RULES_SECONDS
from collector.ledger.sqlite.reader import SqliteReader
from tests.support.collector.collectors import (
    ALICE_TOKEN,
    AS_OTHER,
    AS_REPORTER,
    KEY,
    OTHER_KEY,
    CollectorWorld,
    running,
    wire,
)


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


class Ratios(CollectorWorld):
    """A collector whose operator sits at the command line."""

    def command(self, *words):
        """Run a command beside the collector, and let it take effect."""
        assert main(words) == 0
        now_seconds = self.monotonic_seconds() + RULES_SECONDS
        self.monotonic_seconds = lambda: now_seconds

    async def billed(self):
        page = await self.get("/v1/usage/changes")
        return {each["username"]: each["billed_bytes"] for each in page["changes"]}


@pytest.fixture
async def world(path):
    async with running(Ratios(path=path)) as world:
        yield world


async def test_a_ratio_bills_what_comes_after_it_and_nothing_before(world):
    await world.send(wire())
    world.command("ratios", "set", "de-1", "2")
    await world.send(wire())
    world.command("ratios", "set", "de-1", "0.5")
    await world.send([wire(), wire(server="nl-1")])
    world.command("ratios", "set", "de-1", "0")
    await world.send(wire())
    world.command("ratios", "clear", "de-1")
    await world.send(wire())
    assert await world.totals() == {"alice": 180}
    assert await world.billed() == {"alice": 30 + 60 + 15 + 30 + 0 + 30}


async def test_the_running_collector_says_that_ratios_changed(world, capsys):
    await world.send(wire())
    world.command("ratios", "set", "de-1", "2")
    await world.send(wire())
    await world.send(wire())
    assert capsys.readouterr().err.count("ratios changed, from now on: de-1: 2\n") == 1


async def test_it_takes_effect_within_a_second_and_not_at_once(world):
    """The ledger is not asked for every request."""
    began_seconds = world.monotonic_seconds()
    world.monotonic_seconds = lambda: began_seconds
    await world.send(wire())
    assert main(["ratios", "set", "de-1", "2"]) == 0
    await world.send(wire())
    assert await world.billed() == {"alice": 60}
    world.monotonic_seconds = lambda: began_seconds + 1
    await world.send(wire())
    assert await world.billed() == {"alice": 120}


async def test_a_report_that_comes_again_after_a_change_is_the_one_that_was_billed(world):
    await world.send(wire(report_id="x"))
    world.command("ratios", "set", "de-1", "2")
    assert (await world.send(wire(report_id="x"))).json()["duplicates"] == 1
    assert await world.billed() == {"alice": 30}


async def test_users_who_report_for_themselves_are_billed_by_the_same_ratios(world):
    world.command("ratios", "set", "de-1", "3")
    assert (await world.send(wire(ALICE_TOKEN), headers={})).status_code == 200
    assert await world.billed() == {"alice": 90}


async def test_a_reporter_outside_the_quota_is_stored_and_shown_and_not_billed(path):
    environment = {"COLLECTOR_REPORTERS_OUTSIDE_QUOTA": "other"}
    async with running(Ratios(path=path, environment=environment)) as world:
        await world.send(wire(), headers=AS_OTHER)
        await world.send(wire("bob"), headers=AS_REPORTER)
        assert await world.totals() == {"alice": 30, "bob": 30}
        assert await world.billed() == {"alice": 0, "bob": 30}
        usage = await world.get("/v1/usage/alice")
        assert (usage["upload_bytes"], usage["download_bytes"]) == (10, 20)
        assert usage["billed_bytes"] == 0


SOURCES = """
[3x-ui]
r = { server = "de-1" }
other = { server = "de-1" }
[uniproxy.r]
users = "identity"
nodes = { 7 = "de-1", 8 = "nl-1" }
[uniproxy.other]
users = "identity"
nodes = { 7 = "de-1" }
"""
INFORM = {"clientTraffics": [{"email": "alice", "up": 10, "down": 20}]}
PUSH = {"alice": [10, 20]}


@pytest.mark.parametrize(
    ("source", "body", "query"),
    [("3x-ui", INFORM, ""), ("uniproxy", PUSH, "?node_type=vless&node_id=7")],
)
@pytest.mark.parametrize("is_key_in_path", [True, False])
async def test_what_other_panels_post_is_billed_like_any_report(
    path, tmp_path, source, body, query, is_key_in_path
):
    (tmp_path / "sources.toml").write_text(SOURCES)
    environment = {
        "COLLECTOR_SOURCES_FILE": str(tmp_path / "sources.toml"),
        "COLLECTOR_REPORTERS_OUTSIDE_QUOTA": "other",
    }
    async with running(Ratios(path=path, environment=environment)) as world:

        async def post(key, message_id):
            where = f"/{key}{query}" if is_key_in_path else query
            headers = {"webhook-id": message_id}
            if not is_key_in_path:
                headers["authorization"] = f"Bearer {key}"
            address = f"/v1/sources/{source}{where}"
            answer = await world.send(body, path=address, headers=headers)
            assert answer.status_code == 200, answer.text

        await post(KEY, "m-1")
        world.command("ratios", "set", "de-1", "2")
        await post(KEY, "m-1")
        assert await world.billed() == {"alice": 30}, "what comes again was billed"
        await post(KEY, "m-2")
        assert await world.billed() == {"alice": 30 + 60}
        await post(OTHER_KEY, "m-3")
        assert await world.billed() == {"alice": 30 + 60}, "outside the quota"
        world.command("ratios", "set", "de-1", "0")
        await post(KEY, "m-4")
        assert await world.billed() == {"alice": 30 + 60}
        assert await world.totals() == {"alice": 120}


async def test_a_reporter_may_be_moved_in_and_out_while_it_reports(world, capsys):
    world.command("reporters", "add", "agent", "--outside-quota")
    out = capsys.readouterr().out
    assert "outside the quota" in out
    key = re.search(r"rk_[A-Za-z0-9_-]{43}", out)[0]
    as_agent = {"authorization": f"Bearer {key}"}
    await world.send(wire(), headers=as_agent)
    world.command("reporters", "change", "agent", "--counts")
    await world.send(wire(), headers=as_agent)
    world.command("reporters", "change", "agent", "--outside-quota")
    await world.send(wire(), headers=as_agent)
    assert await world.totals() == {"alice": 90}
    assert await world.billed() == {"alice": 30}


async def test_statistics_show_raw_and_billed_and_the_ratio_of_now(world):
    await world.send(wire())
    world.command("ratios", "set", "de-1", "2.5")
    await world.send([wire(), wire("bob", server="nl-1")])
    de, nl = await world.get("/v1/servers")
    assert (de["upload_bytes"], de["download_bytes"]) == (20, 40)
    assert (de["server"], de["billed_bytes"], de["ratio"]) == ("de-1", 105, 2.5)
    assert (nl["server"], nl["billed_bytes"], nl["ratio"]) == ("nl-1", 30, 1.0)
    alice = await world.get("/v1/usage/alice", days=1)
    assert (alice["upload_bytes"] + alice["download_bytes"], alice["billed_bytes"]) == (60, 105)
    assert alice["servers"] == [de]
    everything = await world.get("/v1/usage")
    assert everything["billed_bytes"] == 135
    assert everything["upload_bytes"] + everything["download_bytes"] == 90


async def test_the_original_paths_speak_of_raw_bytes_under_their_own_names(world):
    world.command("ratios", "set", "de-1", "10")
    gib = 2**30
    await world.send(wire(bytes_uploaded=gib, bytes_downloaded=gib))
    found = await world.get("/api/xpert/traffic-stats/alice")
    assert found["total_gb_used"] == 2.0
    assert found["servers"][0].keys() == {
        *("server", "port", "protocol", "upload_gb", "download_gb", "total_gb"),
        *("connections", "last_used"),
    }
    assert (await world.get("/api/xpert/traffic-stats/global"))["total_gb_used"] == 2.0


class TestCommandLine:
    def test_a_ratio_for_a_server_nobody_reported_is_set_and_said(self, path, capsys):
        assert main(["ratios", "set", "premium", "1.5"]) == 0
        out = capsys.readouterr().out
        assert "premium: a byte is billed 1.5 times from now on (before: 1)" in out
        assert "No report has named premium yet" in out
        assert main(["ratios", "set", "premium", "2"]) == 0
        assert "(before: 1.5)" in capsys.readouterr().out
        with closing(SqliteReader(path)) as reader:
            assert [(each.server, each.ratio_millis) for each in reader.ratios()] == [
                ("premium", 2000)
            ]

    async def test_the_list_shows_every_server_raw_and_billed(self, world, capsys):
        world.command("ratios", "set", "de-1", "2")
        world.command("ratios", "set", "[red]x", "0")
        await world.send([wire(), wire(server="nl-1")])
        await world.totals()
        capsys.readouterr()
        assert main(["ratios", "list"]) == 0
        rows = [
            [cell.strip() for cell in line.split("│")[1:-1]]
            for line in capsys.readouterr().out.splitlines()
            if line.startswith("│")
        ]
        assert [row[:4] for row in rows] == [
            ["de-1", "2", "30", "60"],
            ["[red]x", "0", "0", "0"],
            ["nl-1", "1", "30", "30"],
        ]
        assert [bool(row[4]) for row in rows] == [True, True, False]

    def test_who_counts_is_listed(self, path, capsys, monkeypatch):
        main(["reporters", "add", "agent"])
        main(["reporters", "add", "client", "--outside-quota"])
        keys = "c1:a-key-of-twenty-chars,c2:a-key-of-twenty-chars2"
        monkeypatch.setenv("COLLECTOR_REPORTER_KEYS", keys)
        monkeypatch.setenv("COLLECTOR_REPORTERS_OUTSIDE_QUOTA", "c2")
        capsys.readouterr()
        main(["reporters", "list"])
        lines = capsys.readouterr().out.splitlines()
        found = {
            name: next(line for line in lines if f" {name} " in line)
            for name in ("agent", "client", "c1", "c2")
        }
        assert {name: "outside" in line for name, line in found.items()} == {
            "agent": False,
            "client": True,
            "c1": False,
            "c2": True,
        }
        assert "counts" in found["agent"]

    @pytest.mark.parametrize(
        ("command", "words"),
        [
            (["ratios", "set", "de-1", "-1"], "from 0 to 1000"),
            (["ratios", "set", "de-1", "two"], "at most three decimals"),
            (["ratios", "set", "de\n1", "2"], "control characters"),
            (["ratios", "clear", "de-1"], "ratios list"),
            (["reporters", "change", "nobody", "--counts"], "reporters list"),
            (["reporters", "change", "configured", "--counts"], "REPORTERS_OUTSIDE_QUOTA"),
        ],
    )
    def test_mistakes_are_one_line_that_says_what_to_do(
        self, path, capsys, monkeypatch, command, words
    ):
        main(["reporters", "add", "somebody"])
        monkeypatch.setenv("COLLECTOR_REPORTER_KEYS", "configured:a-key-of-twenty-chars")
        capsys.readouterr()
        assert main(command) == 1
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1

    async def test_the_check_says_what_was_billed(self, world, capsys):
        world.command("ratios", "set", "de-1", "2")
        await world.send(wire())
        await world.totals()
        capsys.readouterr()
        assert main(["check"]) == 0
        assert re.search(r"billed, over users\s+│\s+60 bytes", capsys.readouterr().out)
