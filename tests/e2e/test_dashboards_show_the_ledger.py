"""Panels show to the byte what the collector's API says, of users drawn by dice."""

from __future__ import annotations

import os
import random
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from collector.reports.report import DAY_MILLIS
from collector.schema import Policy
from tests.support.collector.collector_process import ADMIN_KEY, KEY, CollectorProcess, poll
from tests.support.grafana.grafana_files import INFLUX, all_queries
from tests.support.grafana.grafana_interpolation import TimeRange, interpolate, interval

USERS, SERVERS, REPORTS, DRAWN = 120, 7, 3000, 20
# Set it to repeat a run that failed: it is in the message.
SEED = int(os.environ.get("DASHBOARD_DICE", "0")) or time.time_ns()
GIB = 2**30
UNBOUNDED = {"COLLECTOR_KEY_HOUR_BYTES": str(2**60), "COLLECTOR_KEY_DAY_BYTES": str(2**61)}
QUERIES = {each.place: each for each in all_queries() if each.datasource == INFLUX}


class Told:
    """A collector that was told of random traffic, and the InfluxDB that it has exported it to."""

    def __init__(self, collector: CollectorProcess, influx) -> None:
        self._influx = influx
        self._now_millis = int(time.time() * 1000) + 60_000
        self.dice = random.Random(SEED)
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{collector.port}",
            headers={"authorization": f"Bearer {ADMIN_KEY}"},
            timeout=60,
        )

    def report(self) -> None:
        """Send everything, with a server that counts threefold."""
        bearer = {"authorization": f"Bearer {KEY}"}
        batch = [self._report() for _ in range(REPORTS)]
        for begin in range(0, REPORTS, 500):  # several pages and blocks of the export
            answer = self._client.post(
                "/v1/reports", json=batch[begin : begin + 500], headers=bearer
            )
            assert answer.status_code == 200, answer.text
            assert answer.json()["accepted"] == 500, answer.text

    def _report(self) -> dict[str, object]:
        ago_seconds = self.dice.randrange(20 * 3600)
        return {
            "user_token": f"user {self.dice.randrange(USERS)}",
            "server": f"de-{self.dice.randrange(SERVERS)}",
            "port": self.dice.choice((443, 8443)),
            "protocol": "vless",
            "bytes_uploaded": self.dice.randrange(GIB),
            "bytes_downloaded": self.dice.randrange(8 * GIB),
            "connections": self.dice.randrange(5),
            "reported_at": (datetime.now(UTC) - timedelta(seconds=ago_seconds)).isoformat(),
        }

    def api(self, path: str):
        answer = self._client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def panel(self, place: str, *, policy: str = "raw", **chosen: str):
        """Return a panel's rows for somebody who looks at the last two whole days."""
        [query] = [each for at, each in QUERIES.items() if at.startswith(place)]
        begin = (self._now_millis // DAY_MILLIS - 1) * DAY_MILLIS
        time_range = TimeRange(begin, self._now_millis)
        step = interval(
            time_range, max_data_points=query.max_data_points, at_least=query.min_interval
        )
        text = interpolate(query.text, time_range, {"policy": policy, **chosen}, step=step)
        return self._influx.query(text)

    def close(self) -> None:
        self._client.close()


@pytest.fixture(scope="module")
def told(influx_server, tmp_path_factory):
    influx_server.start()
    influx_server.reset()
    folder = tmp_path_factory.mktemp("collector")
    collector = CollectorProcess(folder, influx_server.environment() | UNBOUNDED)
    collector.start()
    try:
        with closing(Told(collector, influx_server)) as found:
            set_ratio = collector.run("ratios", "set", "de-3", "3")
            assert set_ratio.returncode == 0, set_ratio.stderr
            found.report()
            for policy in Policy:
                written = f'SELECT sum("upload_bytes") AS up FROM "{policy}"."traffic"'
                up_bytes = found.api("/v1/usage")["upload_bytes"]
                poll(
                    f"all is in {policy}",
                    lambda statement=written, expected=up_bytes: (
                        [each["up"] for each in influx_server.query(statement)] == [expected]
                    ),
                )
            yield found
    finally:
        collector.kill()


@pytest.mark.parametrize("policy", Policy)
def test_twenty_users_by_server(told, policy):
    for user in told.dice.sample([f"user {n}" for n in range(USERS)], DRAWN):
        api = told.api(f"/v1/usage/{user}")
        place = "traffic-user/12 Traffic per Server A"
        shown = {
            (each["server"], each["port"]): [
                *(each["upload"], each["download"], each["billed"], each["connections"])
            ]
            for each in told.panel(place, policy=policy, user=user)
        }
        assert shown == {
            (each["server"], str(each["port"])): [
                *(each["upload_bytes"], each["download_bytes"], each["billed_bytes"]),
                each["connections"],
            ]
            for each in api["servers"]
        }, (user, SEED)
        slices = told.panel("traffic-user/18 Billed", policy=policy, user=user)
        assert sum(each["Billed"] for each in slices) == api["billed_bytes"], (user, SEED)
        raw_bytes = api["upload_bytes"] + api["download_bytes"]
        assert sum(each["Raw"] for each in slices) == raw_bytes, (user, SEED)


def test_every_server_and_all_of_them(told):
    api: dict[str, list[int]] = {}
    for each in told.api("/v1/servers"):
        values = [each["upload_bytes"] + each["download_bytes"], each["billed_bytes"]]
        values.append(each["connections"])
        so_far = api.get(each["server"], [0, 0, 0])
        api[each["server"]] = [one + other for one, other in zip(so_far, values, strict=True)]
    details = told.panel("traffic-servers/5 Server Details A")
    assert {
        each["server"]: [each["bytes"], each["billed"], each["connections"]] for each in details
    } == api
    everything = told.api("/v1/usage")
    [traffic] = told.panel("traffic-overview/3 Traffic Used")
    assert traffic["traffic"] == everything["upload_bytes"] + everything["download_bytes"]
    [billed] = told.panel("traffic-overview/26 Billed")
    assert billed["billed"] == everything["billed_bytes"]
    [servers] = told.panel("traffic-overview/2 Total Servers")
    assert servers["servers"] == len(api)
    slices = told.panel("traffic-overview/10 Traffic over time")
    assert sum(each["Up"] for each in slices) == everything["upload_bytes"]


@pytest.mark.parametrize("policy", Policy)
def test_a_server_and_its_busiest_users(told, policy):
    server = told.dice.choice([f"de-{n}" for n in range(SERVERS)])
    api = [each for each in told.api("/v1/servers") if each["server"] == server]
    [traffic] = told.panel("traffic-servers/3 Traffic", policy=policy, server=server)
    assert traffic["traffic"] == sum(
        each["upload_bytes"] + each["download_bytes"] for each in api
    ), (server, SEED)
    for each in told.panel("traffic-servers/7 ", policy=policy, server=server):
        of_user = told.api(f"/v1/usage/{each['user']}")["servers"]
        assert each["bytes"] == sum(
            found["upload_bytes"] + found["download_bytes"]
            for found in of_user
            if found["server"] == server
        ), (each["user"], server, SEED)
