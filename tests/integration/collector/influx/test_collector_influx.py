"""The collector's commands and routes that reach a real InfluxDB."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import parse_qs, urlsplit

import pytest

from collector.cli.influx import bootstrap
from collector.cli.main import main
from collector.errors import InfluxUnavailableError
from collector.influx.buckets import Buckets
from collector.ledger_gauges import refresh
from collector.schema import Policy
from collector.settings import Settings
from tests.support.collector.collectors import ALICE_TOKEN, AS_ADMIN, CollectorWorld, running, wire
from tests.support.fixed_answers import Server, serving

DAY_MILLIS = 86_400_000


@pytest.fixture
def environment(monkeypatch, tmp_path, influx):
    values = influx.environment() | {"LEDGER_URL": f"sqlite:///{tmp_path}/ledger.sqlite3"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return values


class TestBootstrap:
    def test_it_mends_what_has_drifted_and_then_finds_nothing_to_do(
        self, environment, influx, monkeypatch, capsys
    ):
        assert main(["bootstrap"]) == 0
        assert (
            "traffic/raw keeps points for ever, it should be 30 d: done" in capsys.readouterr().out
        )
        assert Buckets(influx.access()).current_seconds()[Policy.RAW.bucket] == 30 * 86_400
        assert main(["bootstrap"]) == 0
        assert capsys.readouterr().out == "the buckets exist, with the retention that is set\n"
        monkeypatch.setenv("INFLUXDB_DAILY_DAYS", "400")
        assert main(["bootstrap"]) == 0
        assert "traffic/daily keeps points for ever, it should be 400 d" in capsys.readouterr().out

    def test_it_keeps_a_token_for_each_program(self, environment, tmp_path, capsys):
        assert main(["bootstrap", "--tokens", str(tmp_path / "tokens")]) == 0
        assert "tokens made: collector, bridge, grafana" in capsys.readouterr().out
        assert main(["bootstrap", "--tokens", str(tmp_path / "tokens")]) == 0
        assert "the tokens work" in capsys.readouterr().out

    def test_a_token_it_makes_is_enough_for_a_collector(self, environment, influx, tmp_path):
        world = self._with_own_token(influx, tmp_path)
        asyncio.run(self._report_and_wait(world, influx))

    def _with_own_token(self, influx, folder):
        """Return a collector with the token that `bootstrap` makes for it."""
        main(["bootstrap", "--tokens", str(folder / "tokens")])
        token_file = folder / "tokens" / "collector" / "token"
        return CollectorWorld(
            path=folder / "l.sqlite3",
            environment=influx.environment()
            | {"INFLUXDB_TOKEN": "", "INFLUXDB_TOKEN_FILE": str(token_file)},
            now_millis=time.time_ns() // 10**6,
        )

    async def _report_and_wait(self, world, influx):
        async with running(world):
            assert (await world.send(wire("alice", server="de 1"))).status_code == 200
            count = 'SELECT count("upload_bytes") AS n FROM "daily"."traffic"'
            async with asyncio.timeout(120):
                while not await asyncio.to_thread(influx.query, count):
                    await asyncio.sleep(0.05)
            assert (await world.client.get("/readyz")).json()["warnings"] == []

    async def test_a_bucket_deleted_while_it_runs_stops_one_stream_until_it_is_mended(
        self, environment, influx, tmp_path, monkeypatch, capsys
    ):
        """With the token that `bootstrap` gave it, which sees no organization."""
        monkeypatch.setattr("collector.influx.exporter.HALT_PAUSE_SECONDS", 0.1)
        world = self._with_own_token(influx, tmp_path)
        count = 'SELECT count("upload_bytes") AS n FROM "{}"."traffic"'

        async def until_in(policy):
            while not await asyncio.to_thread(influx.query, count.format(policy)):
                await asyncio.sleep(0.05)

        async def warnings():
            return (await world.client.get("/readyz")).json()["warnings"]

        async with running(world), asyncio.timeout(120):
            influx.delete_bucket("traffic/daily")
            await world.send(wire("alice", server="de 1"))
            await until_in("raw")
            while not await warnings():
                await asyncio.sleep(0.05)
            (warning,) = await warnings()
            assert "traffic/daily" in warning
            assert "traffic-collector bootstrap" in warning
            text = (await world.client.get("/metrics")).text
            assert 'collector_export_up{stream="daily"} 0.0' in text
            assert 'collector_export_up{stream="raw"} 1.0' in text
            main(["bootstrap", "--tokens", str(tmp_path / "tokens")])
            await until_in("daily")
            while await warnings():
                await asyncio.sleep(0.05)
        log = capsys.readouterr().err
        assert "Traceback" not in log
        told = [
            line.partition(" collector.influx.exporter ")[2]
            for line in log.splitlines()
            if " collector.influx.exporter " in line
        ]
        assert "404" in told[0]
        assert told[-1] == "export to traffic/daily goes on"
        assert len(told) == len(set(told)), "each reason once: its former token may be refused, too"

    async def test_one_sender_makes_as_few_series_in_influxdb_as_in_the_ledger(
        self, tmp_path, influx
    ):
        world = CollectorWorld(
            path=tmp_path / "l.sqlite3",
            environment=influx.environment()
            | {"COLLECTOR_USER_SERVERS_PER_DAY": "20", "COLLECTOR_USER_REQUESTS_PER_SECOND": "0"},
            now_millis=time.time_ns() // 10**6,
        )
        async with running(world):
            for turn in range(5):
                names = [f"invented-{turn}-{n}" for n in range(40)]
                sent = [wire(ALICE_TOKEN, server=name) for name in names]
                assert (await world.send(sent, headers={})).json()["accepted"] == 40
            for policy in ("raw", "daily"):
                count = f'SELECT sum("download_bytes") AS n FROM "{policy}"."traffic"'
                async with asyncio.timeout(120):
                    while (await asyncio.to_thread(influx.query, count) or [{"n": 0}])[0][
                        "n"
                    ] != 200 * 20:
                        await asyncio.sleep(0.05)
                by_series = f'SELECT count("upload_bytes") FROM "{policy}"."traffic" GROUP BY *'
                assert len(await asyncio.to_thread(influx.query, by_series)) == 21

    async def test_where_buckets_are_made_elsewhere_nothing_but_writing_is_asked_for(
        self, tmp_path
    ):
        """What every InfluxDB from 1.8 to 3.x and Cloud has is one route."""
        with serving(Server(204, body=b"")) as server:
            environment = {
                "INFLUXDB_URL": server.url,
                "INFLUXDB_TOKEN": "t",
                "INFLUXDB_PREPARES_BUCKETS": "false",
            }
            world = CollectorWorld(
                path=tmp_path / "l.sqlite3",
                environment=environment,
                now_millis=time.time_ns() // 10**6,
            )
            async with running(world), asyncio.timeout(120):
                assert (await world.send(wire("alice", server="de 1"))).status_code == 200
                while len({path for _, path, _ in server.asked}) < 2:
                    await asyncio.sleep(0.05)
                assert (await world.client.get("/readyz")).json()["warnings"] == []
        assert {(method, urlsplit(path).path) for method, path, _ in server.asked} == {
            ("POST", "/api/v2/write")
        }
        written_to = {parse_qs(urlsplit(path).query)["bucket"][0] for _, path, _ in server.asked}
        assert written_to == {each.bucket for each in Policy}

    def test_where_buckets_are_made_elsewhere_there_is_nothing_to_prepare(
        self, environment, monkeypatch, capsys
    ):
        monkeypatch.setenv("INFLUXDB_PREPARES_BUCKETS", "false")
        assert main(["bootstrap"]) == 1
        assert "INFLUXDB_PREPARES_BUCKETS is false" in capsys.readouterr().err

    def test_a_folder_that_cannot_be_written_is_one_line(self, environment, tmp_path, capsys):
        (tmp_path / "file").write_text("")
        assert main(["bootstrap", "--tokens", str(tmp_path / "file")]) == 1
        assert "--tokens" in capsys.readouterr().err

    def test_a_token_nobody_knows_is_one_line(self, environment, monkeypatch, capsys):
        monkeypatch.setenv("INFLUXDB_ADMIN_TOKEN", "nobody-s-token")
        assert main(["bootstrap"]) == 1
        error = capsys.readouterr().err
        assert "401" in error
        assert "keeps the token it was first set up with" in error
        assert "nobody-s-token" not in error

    def test_without_influxdb_there_is_nothing_to_prepare(self, monkeypatch, tmp_path, capsys):
        monkeypatch.chdir(tmp_path)
        assert main(["bootstrap"]) == 1
        assert "INFLUXDB_URL is not set" in capsys.readouterr().err

    def test_an_influxdb_that_does_not_come_up_is_waited_for_only_so_long(self, capsys):
        settings = Settings(influxdb_url="http://127.0.0.1:9", influxdb_token="t")
        with pytest.raises(InfluxUnavailableError, match="does not answer"):
            bootstrap(settings, tokens=None, patience_seconds=0)


class TestCleanup:
    async def test_it_deletes_the_points_of_the_days_it_removes(self, influx, tmp_path):
        now_millis = time.time_ns() // 10**6
        world = CollectorWorld(
            path=tmp_path / "l.sqlite3", environment=influx.environment(), now_millis=now_millis
        )
        old_nanos = (now_millis - 40 * DAY_MILLIS) * 10**6
        for policy in Policy:
            influx.write(policy.bucket, [f"traffic,user=old upload_bytes=1i {old_nanos}"])
            influx.write(policy.bucket, [f"traffic,user=new upload_bytes=1i {now_millis * 10**6}"])
        async with running(world):
            answer = await world.client.post(
                "/v1/maintenance/cleanup", params={"days": 30}, headers=AS_ADMIN
            )
        assert answer.json()["series_data"] == "deleted"
        for policy in Policy:
            rows = influx.query(f'SELECT * FROM "{policy}"."traffic"')
            assert [row["user"] for row in rows] == ["new"]

    async def test_while_influxdb_is_away_the_ledger_is_cleaned_and_the_rest_is_said(
        self, influx, tmp_path
    ):
        world = CollectorWorld(
            path=tmp_path / "l.sqlite3",
            environment={"INFLUXDB_URL": "http://127.0.0.1:9", "INFLUXDB_TOKEN": "t"},
        )
        async with running(world):
            await world.send(wire())
            world.now_millis += 20 * DAY_MILLIS
            answer = await world.client.post(
                "/v1/maintenance/cleanup", params={"days": 10}, headers=AS_ADMIN
            )
            assert answer.json()["removed_day_rows"] == 1
            assert answer.json()["removed_reports"] == 0, "not in InfluxDB yet"
            assert "does not answer" in answer.json()["series_data"]
            assert (await world.totals())["alice"] == 30


class TestGauges:
    async def test_the_ledger_and_the_backlog_are_measured(self, tmp_path):
        world = CollectorWorld(
            path=tmp_path / "l.sqlite3",
            environment={"INFLUXDB_URL": "http://127.0.0.1:9", "INFLUXDB_TOKEN": "t"},
        )
        async with running(world):
            await world.send([wire("alice"), wire("bob", server="nl-1")])
            world.now_millis += 5000
            await refresh(world.app.state.collector)
            text = (await world.client.get("/metrics")).text
        for line in (
            "collector_ledger_users 2.0",
            "collector_ledger_servers 2.0",
            "collector_ledger_reports 2.0",
            'collector_ledger_traffic_bytes{direction="download"} 40.0',
            'collector_retention_seconds{policy="raw"} 2.592e+06',
            'collector_retention_seconds{policy="daily"} 0.0',
            "collector_export_lag_reports 2.0",
            "collector_export_lag_seconds 5.0",
            'collector_reporter_last_report_timestamp_seconds{reporter="r"}',
        ):
            assert line in text
        assert "alice" not in text

    async def test_without_influxdb_nothing_is_said_of_an_export(self, tmp_path):
        world = CollectorWorld(path=tmp_path / "l.sqlite3")
        async with running(world):
            text = (await world.client.get("/metrics")).text
        assert "collector_influx_up" not in text
        assert "collector_export_lag" not in text
