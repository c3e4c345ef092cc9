"""A standby that lagged takes over: what it lacks is noticed, and is no admin's edit."""

from __future__ import annotations

import contextlib
import signal
import subprocess

import psycopg
import pytest

from marzban_bridge.quota.account import GIB
from tests.support.engines import postgres_server
from tests.support.engines.postgres_pair import PostgresPair
from tests.support.processes import BRIDGE, COLLECTOR, PANEL, Stack, until

pytestmark = pytest.mark.skipif(
    postgres_server.describe() is None, reason="no PostgreSQL here: apt-get install postgresql"
)
USERS = [{"username": "alice", "data_limit": 100 * GIB, "used_traffic": 0}]


@pytest.fixture
def pair():
    opened = PostgresPair()
    yield opened
    opened.close()


def ready(stack, name):
    return stack.client.get(f"{stack.urls[name]}/readyz").json()


def sent(stack, amount_bytes, report_id):
    """Send a report once; None where the answer was that it should be sent again."""
    with contextlib.suppress(AssertionError):
        return stack.report("alice", amount_bytes, report_id)


def until_limit(stack, gibibytes):
    until(f"{gibibytes} GiB", lambda: stack.user("alice")["data_limit"] == gibibytes * GIB)


def test_a_failover_that_loses_commits_is_no_edit_and_is_said(tmp_path, pair):
    """With ledger and store in one database, and no notes: nothing outside it can tell."""
    url = pair.url(pair.primary.new_database())
    settings = {"LEDGER_URL": url, "BRIDGE_STORE": url, "BRIDGE_NOTES": "false"}
    stack = Stack(tmp_path, USERS, settings)
    try:
        stack.start(PANEL, COLLECTOR, BRIDGE)
        stack.until_up(PANEL, COLLECTOR, BRIDGE)
        stack.report("alice", 20 * GIB, "1")
        until_limit(stack, 80)
        pair.detach()
        stack.report("alice", 10 * GIB, "2")
        until_limit(stack, 70)
        pair.fail_over()
        until(
            "the bridge says so",
            lambda: "lacks commits" in " ".join(ready(stack, BRIDGE)["reasons"]),
        )
        until("the collector says so", lambda: "lost" in str(ready(stack, COLLECTOR)["warnings"]))
        assert stack.user("alice")["data_limit"] == 70 * GIB
        assert "collector_lost_reports 1.0" in metrics(stack, COLLECTOR)
        assert "bridge_store_in_doubt 1.0" in metrics(stack, BRIDGE)
        done = stack.run("marzban_bridge", "rebase", "--restored")
        assert done.returncode == 0, done.stderr
        until_limit(stack, 80)
        answer = until("it is taken", lambda: sent(stack, 10 * GIB, "2"))
        assert answer["accepted"] == 1, "its id was lost with it"
        until_limit(stack, 70)
        until("the bridge is ready", lambda: ready(stack, BRIDGE)["reasons"] == [])
        said = stack.run("marzban_bridge", "events").stdout
        assert "quota_changed" not in said
        assert "Traceback" not in stack.log_of(BRIDGE) + stack.log_of(COLLECTOR)
    finally:
        stack.close()


def test_dumps_of_both_that_are_restored_without_a_rebase_change_no_user(tmp_path, postgres):
    """The database tells by itself: it has no notes to ask, and no process lived on."""
    url = postgres.url(postgres.new_database())
    settings = {"LEDGER_URL": url, "BRIDGE_STORE": url, "BRIDGE_NOTES": "false"}
    stack = Stack(tmp_path, USERS, settings)
    folder, dump = postgres_server.binaries(), tmp_path / "both.dump"
    try:
        stack.start(PANEL, COLLECTOR, BRIDGE)
        stack.until_up(PANEL, COLLECTOR, BRIDGE)
        stack.report("alice", 20 * GIB, "1")
        until_limit(stack, 80)
        postgres_tool(folder / "pg_dump", "--format=custom", f"--file={dump}", url)
        stack.report("alice", 10 * GIB, "2")
        until_limit(stack, 70)
        for name in (BRIDGE, COLLECTOR):
            stack.stop(name, signal.SIGTERM)
        postgres_tool(folder / "pg_restore", "--clean", f"--dbname={url}", dump)
        with psycopg.connect(url, autocommit=True) as db:  # it had lain for more than a lease
            for schema in ("traffic", "bridge"):
                db.execute(f"UPDATE {schema}.lease SET expires_at = clock_timestamp()")
        stack.start(COLLECTOR, BRIDGE)
        stack.until_up(COLLECTOR, BRIDGE)
        until("it says so", lambda: "a backup was restored" in str(ready(stack, BRIDGE)["reasons"]))
        until("it has looked", lambda: "bridge_panel_up 1.0" in metrics(stack, BRIDGE))
        assert stack.user("alice")["data_limit"] == 70 * GIB
        assert "quota_changed" not in stack.run("marzban_bridge", "events").stdout
    finally:
        stack.close()


def postgres_tool(*command):
    subprocess.run([*map(str, command)], check=True, capture_output=True)


def metrics(stack, name):
    return stack.client.get(f"{stack.urls[name]}/metrics").text
