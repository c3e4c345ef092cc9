"""A stolen key spikes a user, the operator voids it: real processes, killed in between."""

from __future__ import annotations

import pytest

from tests.support.processes import BRIDGE, COLLECTOR, PANEL, Stack, until

GIB = 2**30
SPIKE_BYTES = 103 * 10**9


@pytest.fixture
def stack(tmp_path):
    users = [
        {"username": name, "data_limit": 10 * GIB, "used_traffic": 2 * GIB}
        for name in ("alice", "bob")
    ]
    opened = Stack(tmp_path, users, {"COLUMNS": "300"})
    opened.start(PANEL, COLLECTOR, BRIDGE)
    opened.until_up(PANEL, COLLECTOR, BRIDGE)
    yield opened
    opened.close()


def void(stack, *arguments):
    done = stack.run("collector", "void", "--reporter", "test", "--since", "1h", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(180)
def test_who_was_cut_off_by_a_spike_is_active_again_with_its_exact_usage(stack):
    stack.report("alice", GIB, "honest-1")
    stack.report("bob", 3 * GIB, "honest-2")
    until("alice has 9 GiB", lambda: stack.user("alice")["data_limit"] == 9 * GIB)
    stack.report("alice", SPIKE_BYTES, "spike")
    until("alice is limited", lambda: stack.user("alice")["status"] == "limited")

    shown = void(stack, "--user", "alice")
    assert "Nothing was changed" in shown
    assert f"{SPIKE_BYTES + GIB:,}" in shown
    stack.stop(BRIDGE)
    void(stack, "--user", "alice", "--yes", "--reason", "stolen key")
    stack.start(BRIDGE)
    until("alice is active", lambda: stack.user("alice")["status"] == "active")
    until("alice has all of it", lambda: stack.user("alice")["data_limit"] == 10 * GIB)
    until("bob is as before", lambda: stack.user("bob")["data_limit"] == 7 * GIB)
    until(
        "an event says so",
        lambda: "stolen key" in stack.run("marzban_bridge", "events", "--json").stdout,
    )

    # Sent again it is a duplicate; and a void of what a reset has forgiven forgives nothing.
    assert stack.report("alice", SPIKE_BYTES, "spike")["duplicates"] == 1
    stack.report("alice", 20 * GIB, "before the reset")
    until("alice is limited", lambda: stack.user("alice")["status"] == "limited")
    stack.reset_in_panel("alice")
    until("alice is reset", lambda: stack.user("alice")["data_limit"] == 10 * GIB)
    stack.report("alice", 4 * GIB, "after the reset")
    until("it counts", lambda: stack.user("alice")["data_limit"] == 6 * GIB)
    voided = stack.run(
        "collector", "adjust", "alice", f"--bytes=-{GIB}", "--reason", "twice", "--yes"
    )
    assert voided.returncode == 0, voided.stderr
    until("the adjustment counts", lambda: stack.user("alice")["data_limit"] == 7 * GIB)
    check = stack.run("collector", "check")
    assert check.returncode == 0, check.stdout
    assert f"-{SPIKE_BYTES + 2 * GIB} bytes" in check.stdout
