"""Real collectors on one real PostgreSQL, with accidents: the books balance, somebody leads."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing

import httpx
import pytest

from collector.ledger.postgres.reader import PostgresReader
from tests.support.collector.cluster import (
    Accidents,
    Cluster,
    TrueBooks,
    WanderingReader,
    WanderingSender,
)
from tests.support.collector.collector_process import KEY, poll
from tests.support.engines import postgres_server

log = logging.getLogger(__name__)

CHAOS_SECONDS = float(os.environ.get("CLUSTER_CHAOS_SECONDS", "20"))
FAILOVER_SECONDS = 40
"""On a busy machine; on an idle one it is the lease, 6 s."""

pytestmark = pytest.mark.skipif(
    postgres_server.describe() is None, reason="no PostgreSQL here: apt-get install postgresql"
)


@contextlib.contextmanager
def running(folder, collectors, environment=None):
    cluster = Cluster(folder, collectors, environment)
    with contextlib.ExitStack() as stack:
        stack.callback(cluster.close)
        cluster.start()
        yield cluster


def balance(cluster, books, reader):
    """Assert that what is stored is what was acknowledged, wherever one looks."""
    with closing(PostgresReader(cluster.url)) as ledger:
        ledger.await_sums()
        audit, facts = ledger.audit(), ledger.facts()
        rows = sum(1 for _ in kept(ledger))
    for each in cluster.collectors:
        assert each.totals() == dict(books.bytes)
    assert audit.problems == []
    assert audit.user_bytes == audit.series_bytes == audit.day_bytes == books.bytes.total()
    assert audit.reports == facts.records == rows == books.reports
    assert reader.seen == dict(books.bytes)
    assert reader.cursor == books.reports
    assert books.defects + reader.defects == []


def kept(ledger):
    seq = 0
    while rows := ledger.reports_after(seq, limit=5000):
        assert [row.seq for row in rows] == list(range(seq + 1, seq + 1 + len(rows)))
        seq = rows[-1].seq
        yield from rows


def test_the_books_balance_whatever_befalls_four_collectors_and_their_server(tmp_path):
    """Clients send again at another collector; a reader wanders as well."""
    seed = int(os.environ.get("CLUSTER_CHAOS_SEED", "6"))
    books, stop, nothing_left = TrueBooks(), threading.Event(), threading.Event()
    with running(tmp_path, 4) as cluster:
        senders = [WanderingSender(n, cluster.ports, books, stop, seed=seed) for n in range(6)]
        reader = WanderingReader(cluster.ports, nothing_left, seed=seed)
        accidents = Accidents(cluster, random.Random(seed))
        for each in (*senders, reader):
            each.start()
        until = time.monotonic() + CHAOS_SECONDS
        while time.monotonic() < until:
            told = accidents.cause()
            log.info("%8d reports, %5d retries: %s", books.reports, books.retries, told)
        stop.set()
        for each in senders:
            each.join(120)
            assert not each.is_alive()
        poll("all collectors are ready", lambda: all(c.is_ready() for c in cluster.collectors))
        cluster.until_led()
        nothing_left.set()
        reader.join(60)
        assert not reader.is_alive()
        balance(cluster, books, reader)
        log.info("%d reports, %d sent again; %s", books.reports, books.again, accidents.counts)
        log.info("failovers in seconds: %s", [round(each, 1) for each in accidents.failovers])
        assert books.again > 0
        assert max(accidents.failovers, default=0) < FAILOVER_SECONDS
        assert not any("Traceback" in each.log.read_text() for each in cluster.collectors)


def test_another_leads_within_seconds_of_a_kill_and_a_frozen_leader_stays_out(tmp_path):
    with running(tmp_path, 2) as cluster:
        first = cluster.leader()
        assert first is not None
        second = 1 - first
        pid = cluster.collectors[first].pid
        os.kill(pid, signal.SIGSTOP)
        assert cluster.until_led(by_another_than=first) < FAILOVER_SECONDS
        before = cluster.ask("SELECT token, epoch FROM lease")
        os.kill(pid, signal.SIGCONT)
        poll("the thawed one answers", cluster.collectors[first].is_ready)
        books, stop = TrueBooks(), threading.Event()
        sender = WanderingSender(0, [cluster.ports[first]], books, stop, seed=1)
        sender.start()
        poll("reports are taken", lambda: books.reports > 100)
        stop.set()
        sender.join(30)
        assert cluster.collectors[second].totals() == dict(books.bytes)
        assert cluster.ask("SELECT token, epoch FROM lease") == before
        assert len(cluster.ask("SELECT * FROM run")) == 1
        cluster.collectors[second].kill()
        took_seconds = cluster.until_led(by_another_than=second)
        log.info("failover after kill -9: %.1f s", took_seconds)
        assert took_seconds < FAILOVER_SECONDS
        assert cluster.collectors[first].totals() == dict(books.bytes)


def test_a_collector_that_is_told_to_end_hands_the_lease_on_at_once(tmp_path):
    with running(tmp_path, 2) as cluster:
        first = cluster.leader()
        cluster.collectors[first].terminate()
        assert cluster.until_led(by_another_than=first) < 2


NETWORKS = tuple(
    f"10.{64 + os.getpid() // 100 % 128}.{os.getpid() % 100 * 2 + line}" for line in range(2)
)
"""Of the two lines below; other ones in each process, for whole runs beside each other."""


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def namespace():
    """A network namespace with two lines to this one: 0 for clients, 1 for the server."""
    name = f"ledger{os.getpid()}"
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("making a network namespace needs root and iproute2")
    try:
        ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode()}")
    for line, network in enumerate(NETWORKS):
        inside, outside = f"in{line}-{os.getpid()}"[:15], f"out{line}-{os.getpid()}"[:15]
        ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", name)
        ip("addr", "add", f"{network}.1/24", "dev", outside)
        ip("link", "set", outside, "up")
        ip("-n", name, "addr", "add", f"{network}.2/24", "dev", inside)
        ip("-n", name, "link", "set", inside, "up")
    ip("-n", name, "link", "set", "lo", "up")
    yield name
    ip("netns", "del", name)


def test_a_leader_whose_network_is_cut_says_so_is_replaced_and_comes_back(tmp_path, namespace):
    """The packets are lost, as on a broken line: nobody is told."""
    cluster = Cluster(tmp_path, 1)
    cut_off = None
    client = httpx.Client(timeout=30, trust_env=False)
    clients_side, servers_side = NETWORKS
    try:
        cluster.server.stop()
        cluster.server.allow(f"{servers_side}.0/24")
        cluster.server.start("-c", f"listen_addresses=127.0.0.1,{servers_side}.1")
        cut_off = subprocess.Popen(
            ["ip", "netns", "exec", namespace, sys.executable, "-m", "collector", "serve"],
            env=os.environ
            | {
                "LEDGER_URL": cluster.server.url(cluster.database, host=f"{servers_side}.1"),
                "COLLECTOR_HOST": f"{clients_side}.2",
                "COLLECTOR_PORT": "8080",
                "COLLECTOR_REPORTER_KEYS": f"load:{KEY}",
            },
            stderr=subprocess.DEVNULL,
        )
        url = f"http://{clients_side}.2:8080"
        headers = {"authorization": f"Bearer {KEY}"}
        report = {"user_token": "alice", "server": "s", "port": 1, "protocol": "p"}
        report |= {"bytes_uploaded": 1, "bytes_downloaded": 0}

        def is_ready():
            with contextlib.suppress(httpx.TransportError):
                return client.get(f"{url}/readyz").status_code == 200
            return False

        def send(report_id, port=None):
            to = url if port is None else f"http://127.0.0.1:{port}"
            body = report | {"report_id": report_id}
            return client.post(f"{to}/v1/reports", json=body, headers=headers)

        poll("a collector behind the line", is_ready)
        led = "SELECT 1 FROM lease WHERE token <> '' AND expires_at > clock_timestamp()"
        poll("it leads", lambda: cluster.ask(led) == [(1,)])
        cluster.start()
        assert cluster.leader() is None  # it is not one of the cluster's
        assert send("a").status_code == 200
        ip("link", "set", f"out1-{os.getpid()}"[:15], "down")
        took_seconds = cluster.until_led()
        assert took_seconds < FAILOVER_SECONDS
        refused = send("b")
        assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
        poll("it says so", lambda: not is_ready())
        assert send("b", cluster.ports[0]).json()["accepted"] == 1
        ip("link", "set", f"out1-{os.getpid()}"[:15], "up")
        poll("it comes back by itself", is_ready)
        poll("it stores again", lambda: send("b").status_code == 200)
        assert send("b").json()["duplicates"] == 1
        assert cluster.leader() == 0
        assert cluster.collectors[0].totals() == {"alice": 2}
    finally:
        client.close()
        if cut_off is not None:
            cut_off.kill()
            cut_off.wait()
        cluster.close()


def test_the_leader_exports_and_the_next_one_goes_on_where_it_was(tmp_path, influx):
    books, stop = TrueBooks(), threading.Event()
    with running(tmp_path, 3, influx.environment()) as cluster:
        senders = [WanderingSender(n, cluster.ports, books, stop, seed=2) for n in range(3)]
        for each in senders:
            each.start()

        def exported():
            rows = cluster.ask("SELECT seq FROM export WHERE stream = 'raw'")
            return rows[0][0] if rows else 0

        poll("an export", lambda: exported() > 50)
        killed = cluster.leader()
        cluster.collectors[killed].kill()
        killed_at, at = time.monotonic(), exported()
        poll("an export that goes on", lambda: exported() > at)
        log.info("the export went on after %.1f s", time.monotonic() - killed_at)
        assert time.monotonic() - killed_at < FAILOVER_SECONDS
        stop.set()
        for each in senders:
            each.join(60)
        cluster.collectors[killed].start()
        poll("all is exported", lambda: exported() == books.reports, seconds=60)
        for stream in ("raw", "daily"):
            expected = books.bytes.total()
            poll(f"{stream} has all", lambda s=stream, e=expected: exported_bytes(influx, s) == e)


def exported_bytes(influx, stream):
    rows = influx.query(
        f'SELECT sum("upload_bytes") AS up, sum("download_bytes") AS down FROM "{stream}"."traffic"'
    )
    return rows[0]["up"] + rows[0]["down"] if rows else 0
