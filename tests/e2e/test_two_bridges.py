"""Two bridges of one store: one leads, whatever befalls it; a panel is never written by two."""

from __future__ import annotations

import signal
import time

import pytest

from marzban_bridge.store.postgres.lease import LEASE_SECONDS
from tests.support.bridge.bridge_pair import PASSWORD, WEBHOOK_SECRET, Pair
from tests.support.collector.collector_process import poll

TAKEOVER_SECONDS = 15


@pytest.fixture(scope="module")
def running(tmp_path_factory, postgres_for_all):
    opened = Pair(tmp_path_factory.mktemp("pair"))
    try:
        opened.start()
        yield opened
    finally:
        opened.close()


@pytest.fixture
def pair(running):
    """Two bridges that do their work; afterwards limits must be right, and never written by two."""
    yield running
    running.panel.write_seconds = 0.05
    running.until_right()
    running.panel.assert_never_written_by_two()
    running.assert_no_secrets_in_logs()


def until_writing(pair, number):
    """Wait until a bridge has written, and nobody after it."""
    pid, known = pair.bridges[number].pid, len(pair.panel.writes)
    poll(
        "writes",
        lambda: len(pair.panel.writes) > known + 5 and pair.panel.writes[-1].pid == pid,
    )


def until_following(pair, number):
    poll("it follows", lambda: "which leads" in pair.bridges[number].ask("/readyz").text)


def test_a_follower_does_nothing_and_says_whom_it_follows(pair):
    pair.report("user01")
    leader, follower = (pair.bridges[number] for number in pair.roles())
    poll("the leader is ready", lambda: leader.ask("/readyz").status_code == 200)
    assert follower.ask("/healthz").status_code == 200
    ready = follower.ask("/readyz")
    assert ready.status_code == 503
    assert f":{leader.pid}, which leads" in ready.json()["reasons"][0]
    assert "\nbridge_leads 0.0\n" in follower.ask("/metrics").text
    for method, path in (
        ("POST", "/webhooks/marzban"),
        ("POST", "/v1/users/user01/reset"),
        ("POST", "/v1/reset-all"),
        ("POST", "/actions/reset-all"),
        ("POST", "/api/admin/token"),
        ("GET", "/v1/plan"),
    ):
        refused = follower.ask(path, method, headers={"x-webhook-secret": WEBHOOK_SECRET})
        assert refused.status_code == 503, path
        assert refused.headers["retry-after"]
        assert f":{leader.pid}, which leads" in refused.json()["detail"]


def test_a_killed_and_a_stopped_leader_are_followed_by_the_other_one(pair):
    leader, follower = pair.roles()
    with pair.reporting():
        until_writing(pair, leader)
        pair.bridges[leader].end(signal.SIGKILL)
        assert pair.until_led(by_another_than=leader) < TAKEOVER_SECONDS
        pair.bridges[leader].start()
        until_following(pair, leader)
        until_writing(pair, follower)

        stopped_at = time.monotonic()
        assert pair.bridges[follower].end(signal.SIGTERM) == 0
        pair.until_led(by_another_than=follower)
        took = time.monotonic() - stopped_at
        assert took < LEASE_SECONDS / 2, "the lease was not given back"
        until_writing(pair, leader)
    pair.bridges[follower].start()


def test_a_frozen_leader_writes_nothing_when_it_comes_back(pair):
    leader, follower = pair.roles()
    pair.panel.write_seconds = 0.3  # so that it is frozen in the middle of writes
    with pair.reporting():
        until_writing(pair, leader)
        pair.bridges[leader].send(signal.SIGSTOP)
        assert pair.until_led(by_another_than=leader) < TAKEOVER_SECONDS
        until_writing(pair, follower)
        pair.bridges[leader].send(signal.SIGCONT)
        until_following(pair, leader)
        assert pair.bridges[follower].leads


def test_a_leader_without_its_database_stops_before_the_other_one_begins(pair):
    leader, follower = pair.roles()
    with pair.reporting():
        until_writing(pair, leader)
        pair.lines[leader].freeze()
        assert pair.until_led(by_another_than=leader) < TAKEOVER_SECONDS
        until_writing(pair, follower)
        pair.lines[leader].thaw()
        until_following(pair, leader)


def test_bridges_whose_database_crashes_go_on_when_it_is_back(pair):
    leader, _ = pair.roles()
    with pair.reporting():
        until_writing(pair, leader)
        pair.server.crash()
        for each in pair.bridges:
            poll(
                "it does not know",
                lambda each=each: "the leader is unknown" in each.ask("/readyz").text,
            )
            assert PASSWORD not in each.ask("/readyz").text
        pair.server.start()
        pair.until_led()
