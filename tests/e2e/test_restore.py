"""Restoring the ledger, the store or both: no user is let go or shut out without a word."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from contextlib import closing

import pytest

from marzban_bridge.quota.account import GIB
from marzban_bridge.store.store import Store
from tests.support.processes import (
    ADMIN_KEY,
    BRIDGE,
    COLLECTOR,
    PANEL,
    PANEL_PASSWORD,
    Stack,
    until,
)

NAMES = ("alice", "bob", "carol", "dave", "erin")
USERS = [
    {"username": "alice", "data_limit": 10 * GIB, "used_traffic": GIB},
    {"username": "bob", "data_limit": 10 * GIB},
    {"username": "carol", "data_limit": 10 * GIB, "used_traffic": GIB},
    {"username": "dave", "data_limit": 10 * GIB, "used_traffic": GIB},
    {"username": "erin", "data_limit": 10 * GIB, "used_traffic": GIB},
]


@pytest.fixture
def stack(tmp_path):
    opened = Stack(tmp_path, USERS)
    opened.start(PANEL, COLLECTOR, BRIDGE)
    opened.until_up(PANEL, COLLECTOR, BRIDGE)
    yield opened
    opened.close()


def limits(stack):
    shown = {name: stack.user(name) for name in NAMES}
    return {name: (user["status"], user["data_limit"]) for name, user in shown.items()}


def until_limit(stack, name, gibibytes):
    until(
        f"{name} has {gibibytes} GiB",
        lambda: stack.user(name)["data_limit"] == gibibytes * GIB,
    )


def reasons(stack, name=BRIDGE):
    return " ".join(stack.client.get(f"{stack.urls[name]}/readyz").json()["reasons"])


def until_ready(stack, name=BRIDGE):
    until(f"the {name} is ready", lambda: stack.is_up(name) and not reasons(stack, name))


def metric(stack, name):
    text = stack.client.get(f"{stack.urls[BRIDGE]}/metrics").text
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))


def looks(stack):
    """How often the bridge has looked at users; it goes up while it does not hold everybody."""
    return metric(stack, "bridge_looks_total")


def told(stack):
    """All texts of the audit trail."""
    with closing(Store(stack.folder / "bridge.sqlite3", read_only=True)) as store:
        return " ".join(each.event.text for each in store.events.newest())


def back_up(stack, *programs):
    for program in programs:
        module = {COLLECTOR: "collector", BRIDGE: "marzban_bridge"}[program]
        done = stack.run(module, "backup", str(stack.folder / f"{program}.backup"))
        assert done.returncode == 0, done.stderr
        assert "whole" in done.stdout


def restore(stack, *programs):
    for program in programs:
        place = stack.folder / {COLLECTOR: "ledger.sqlite3", BRIDGE: "bridge.sqlite3"}[program]
        for suffix in ("", "-wal", "-shm"):
            place.with_name(place.name + suffix).unlink(missing_ok=True)
        shutil.copy(stack.folder / f"{program}.backup", place)


def until_vouched_for(stack):
    """Wait until the collector knows of the store's newest entry."""

    def is_known():
        store = Store(stack.folder / "bridge.sqlite3", read_only=True)
        try:
            name, (position, mark) = store.identity.name, store.identity.newest()
        finally:
            store.close()
        answer = stack.client.get(
            f"{stack.urls[COLLECTOR]}/v1/readers/{name}",
            headers={"authorization": f"Bearer {ADMIN_KEY}"},
        )
        return answer.json().items() >= {"position": position, "mark": mark}.items()

    until("the collector vouches for the store", is_known)


def press_reset_here(stack, name):
    form = {"username": "admin", "password": PANEL_PASSWORD}
    token = stack.client.post(f"{stack.urls[BRIDGE]}/api/admin/token", data=form).json()
    headers = {"authorization": f"Bearer {token['access_token']}"}
    path = f"{stack.urls[BRIDGE]}/v1/users/{name}/reset"
    return stack.client.post(path, headers=headers)


def rebase(stack):
    stack.stop(BRIDGE, signal.SIGTERM)
    done = stack.run("marzban_bridge", "rebase")
    assert done.returncode == 0, done.stderr
    stack.start(BRIDGE)
    until_ready(stack)


def test_both_files_of_one_moment_go_on_as_if_nothing_had_been_but_the_reports_since(stack):
    stack.report("alice", 3 * GIB, "a1")
    until_limit(stack, "alice", 7)
    until_vouched_for(stack)
    back_up(stack, BRIDGE, COLLECTOR)
    stack.report("alice", 2 * GIB, "a2")
    until_limit(stack, "alice", 5)
    for name in (BRIDGE, COLLECTOR):
        stack.stop(name)
    restore(stack, BRIDGE, COLLECTOR)
    stack.start(COLLECTOR, BRIDGE)
    until("it is said", lambda: stack.is_up(BRIDGE) and "is the backup of" in reasons(stack))
    assert limits(stack)["alice"] == ("active", 5 * GIB), "not taken for the admin's new quota"
    rebase(stack)
    until_limit(stack, "alice", 7)
    assert stack.report("alice", 2 * GIB, "a2")["accepted"] == 1, "it was lost, and is taken again"
    assert stack.report("alice", 3 * GIB, "a1")["duplicates"] == 1
    until_limit(stack, "alice", 5)
    assert metric(stack, "bridge_held_accounts") == 0


def test_an_older_ledger_holds_whom_it_lost_reports_of_until_a_rebase_keeps_their_usage(stack):
    stack.report("alice", 3 * GIB, "a1")
    stack.report("erin", GIB, "e1")
    until_limit(stack, "alice", 7)
    back_up(stack, COLLECTOR)
    stack.report("alice", 2 * GIB, "a2")
    until_limit(stack, "alice", 5)
    stack.stop(COLLECTOR)
    restore(stack, COLLECTOR)
    stack.start(COLLECTOR)
    until("it is said", lambda: stack.is_up(BRIDGE) and "held" in reasons(stack))
    assert "rebase" in reasons(stack)
    until("it is counted", lambda: metric(stack, "bridge_held_accounts") == 1)
    stack.report("alice", 4 * GIB, "a3")
    stack.report("erin", 2 * GIB, "e2")
    until_limit(stack, "erin", 7)
    assert limits(stack)["alice"] == ("active", 5 * GIB), "held: nothing is changed"

    rebase(stack)
    # The bridge had seen 5 GiB when the ledger went back to 3, and 7 are there now.
    until_limit(stack, "alice", 5)
    stack.report("alice", 4 * GIB, "a4")
    until("alice is limited", lambda: stack.user("alice")["status"] == "limited")
    stack.reset_in_panel("alice")
    until_limit(stack, "alice", 10)
    assert stack.user("alice")["status"] == "active"


def copy_by_hand(stack):
    """Copy the ledger as a snapshot of its volume does: with its journal, in the middle of it."""
    stack.stop(COLLECTOR)
    for each in stack.folder.glob("ledger.sqlite3*"):
        shutil.copy(each, each.with_name(f"copied-{each.name}"))
    stack.start(COLLECTOR)
    stack.until_up(COLLECTOR)


def restore_by_hand(stack):
    for each in stack.folder.glob("ledger.sqlite3*"):
        each.unlink()
    for each in stack.folder.glob("copied-*"):
        shutil.copy(each, each.with_name(each.name.removeprefix("copied-")))


@pytest.mark.parametrize("copied", ["by the command", "by hand"])
@pytest.mark.parametrize("bridge", ["down", "up"])
def test_an_older_ledger_that_regrew_past_what_was_read_holds_whom_it_lost_reports_of(
    stack, copied, bridge
):
    """Its numbers and totals are above all that the bridge has seen, and it lacks 2 GiB."""
    stack.report("alice", 3 * GIB, "a1")
    stack.report("erin", GIB, "e1")
    until_limit(stack, "alice", 7)
    until_limit(stack, "erin", 9)
    if copied == "by the command":
        back_up(stack, COLLECTOR)
    else:
        copy_by_hand(stack)
    stack.report("alice", 2 * GIB, "a2")
    until_limit(stack, "alice", 5)
    if bridge == "down":
        stack.stop(BRIDGE)
    stack.stop(COLLECTOR)
    if copied == "by the command":
        restore(stack, COLLECTOR)
    else:
        restore_by_hand(stack)
    stack.start(COLLECTOR)
    stack.until_up(COLLECTOR)
    for number in range(4):
        stack.report("alice", GIB, f"a-since-{number}")
        stack.report("erin", GIB, f"e-since-{number}")
    if bridge == "down":
        stack.start(BRIDGE)
    until_limit(stack, "erin", 5)
    until("it is said", lambda: stack.is_up(BRIDGE) and "1 users are held" in reasons(stack))
    assert limits(stack)["alice"] == ("active", 5 * GIB), "held: nothing is changed"
    assert "the ledger has lost reports" in told(stack) or "fell by" in told(stack)

    rebase(stack)
    until_limit(stack, "alice", 5)
    stack.report("alice", GIB, "a-after")
    until_limit(stack, "alice", 4)
    stack.stop(COLLECTOR)
    stack.start(COLLECTOR)
    stack.until_up(COLLECTOR)
    stack.report("alice", GIB, "a-restarted")
    until_limit(stack, "alice", 3)
    assert not reasons(stack), "a killed collector is no restored one"


@pytest.mark.parametrize("copied", ["by the command", "by hand"])
def test_an_older_store_changes_nobody_and_a_rebase_keeps_what_is_left_to_each(stack, copied):
    stack.report("alice", 3 * GIB, "a1")
    stack.report("bob", 10 * GIB, "b1")
    stack.report("dave", 2 * GIB, "d1")
    stack.report("erin", GIB, "e1")
    until_limit(stack, "alice", 7)
    until_limit(stack, "dave", 8)
    until_limit(stack, "erin", 9)
    until("bob is disabled", lambda: stack.user("bob")["status"] == "disabled")
    if copied == "by hand":
        with closing(sqlite3.connect(stack.folder / "bridge.sqlite3")) as db:
            db.execute(f"VACUUM INTO '{stack.folder}/bridge.backup'")
    else:
        back_up(stack, BRIDGE)

    # All this the backup does not know: resets, a first report, another quota, more traffic.
    stack.reset_in_panel("alice")
    until_limit(stack, "alice", 10)
    stack.report("alice", 5 * GIB, "a2")
    assert press_reset_here(stack, "bob").status_code == 200
    stack.report("bob", 2 * GIB, "b2")
    stack.report("carol", 4 * GIB, "c1")
    stack.modify("dave", data_limit=20 * GIB)
    stack.report("erin", 2 * GIB, "e2")
    right = {"alice": 5, "bob": 8, "carol": 6, "dave": 18, "erin": 7}
    for name, gibibytes in right.items():
        until_limit(stack, name, gibibytes)
    until_vouched_for(stack)
    before = limits(stack)
    assert {status for status, _ in before.values()} == {"active"}

    stack.stop(BRIDGE)
    restore(stack, BRIDGE)
    stack.start(BRIDGE)
    words = "older than" if copied == "by hand" else "is the backup of"
    until("it is said", lambda: stack.is_up(BRIDGE) and words in reasons(stack))
    assert "marzban-bridge rebase" in reasons(stack)
    until("it is counted", lambda: metric(stack, "bridge_held_accounts") == 4)
    stack.report("alice", GIB // 100, "a3")
    answer = press_reset_here(stack, "bob")
    assert (answer.status_code, "rebase" in answer.text) == (503, True)
    assert words in told(stack)
    stack.stop(BRIDGE)
    stack.start(BRIDGE)
    until("over a restart", lambda: stack.is_up(BRIDGE) and words in reasons(stack))
    assert looks(stack) == 0
    assert limits(stack) == before
    refused = stack.run("marzban_bridge", "release")
    assert refused.returncode != 0

    rebase(stack)
    until("everybody was looked at", lambda: looks(stack) >= 10)
    assert limits(stack) == before, "what is left to each is what it was"
    for name, more in {"alice": 5, "bob": 8, "carol": 5, "erin": 6}.items():
        stack.report(name, more * GIB, f"{name}-more")
    for name, status in {
        "alice": "disabled",
        "carol": "limited",
        "bob": "disabled",
        "erin": "limited",
    }.items():
        until(
            f"{name} is {status}",
            lambda name=name, status=status: stack.user(name)["status"] == status,
        )
    for name in ("alice", "erin"):
        stack.reset_in_panel(name)
        until_limit(stack, name, 10)
    assert press_reset_here(stack, "bob").status_code == 200
    until_limit(stack, "bob", 10)
    assert "the account is restored from the line in the user's note" in told(stack)


def test_the_newer_store_put_back_ends_the_doubt_by_itself(stack):
    stack.report("alice", 3 * GIB, "a1")
    until_limit(stack, "alice", 7)
    back_up(stack, BRIDGE)
    stack.report("alice", 2 * GIB, "a2")
    until_limit(stack, "alice", 5)
    until_vouched_for(stack)
    stack.stop(BRIDGE, signal.SIGTERM)
    newer = stack.folder / "bridge.newer"
    shutil.copy(stack.folder / "bridge.sqlite3", newer)
    restore(stack, BRIDGE)
    stack.start(BRIDGE)
    until("it is said", lambda: stack.is_up(BRIDGE) and "is the backup of" in reasons(stack))
    stack.stop(BRIDGE, signal.SIGTERM)
    shutil.copy(newer, stack.folder / "bridge.backup")
    restore(stack, BRIDGE)
    stack.start(BRIDGE)
    until_ready(stack)
    stack.report("alice", GIB, "a3")
    until_limit(stack, "alice", 4)


def test_a_store_that_is_gone_is_told_from_a_first_start_and_nobody_pays_for_the_past(stack):
    """The panel shows what is left of each quota, and the ledger all traffic since for ever."""
    stack.report("alice", 9 * GIB, "a1")
    until("alice is limited", lambda: stack.user("alice")["status"] == "limited")
    stack.reset_in_panel("alice")
    until_limit(stack, "alice", 10)
    stack.report("alice", 3 * GIB, "a2")
    until_limit(stack, "alice", 7)
    until_vouched_for(stack)
    stack.stop(BRIDGE)
    for each in stack.folder.glob("bridge.sqlite3*"):
        each.unlink()
    stack.start(BRIDGE)
    until("it is said", lambda: stack.is_up(BRIDGE) and "it was lost" in reasons(stack))
    assert "marzban-bridge rebase" in reasons(stack)
    planned = stack.run("marzban_bridge", "plan")
    assert "it was lost" in " ".join(planned.stderr.split())
    assert limits(stack)["alice"] == ("active", 7 * GIB)
    assert looks(stack) == 0
    rebase(stack)
    stack.report("alice", GIB, "a3")
    until_limit(stack, "alice", 6)
    assert stack.user("alice")["status"] == "active"


@pytest.mark.parametrize("content", [b"", b"no database " * 900], ids=["empty", "garbage"])
@pytest.mark.parametrize("program", [COLLECTOR, BRIDGE])
def test_a_file_that_is_none_of_ours_is_refused_with_the_way_out_and_left_alone(
    stack, program, content
):
    stack.report("alice", 3 * GIB, "a1")
    until_limit(stack, "alice", 7)
    stack.stop(program)
    (stack.folder / f"{program}.backup").write_bytes(content)
    restore(stack, program)
    module = {COLLECTOR: "collector", BRIDGE: "marzban_bridge"}[program]
    done = stack.run(module, "serve" if program == COLLECTOR else "run")
    assert done.returncode == 1
    assert "error:" in done.stderr
    assert "restore a backup" in done.stderr
    assert "Traceback" not in done.stderr
    place = stack.folder / {COLLECTOR: "ledger.sqlite3", BRIDGE: "bridge.sqlite3"}[program]
    assert place.read_bytes() == content
    assert limits(stack)["alice"] == ("active", 7 * GIB)


def test_another_ledger_under_the_same_store_changes_nobody_until_a_rebase(stack):
    stack.report("alice", 3 * GIB, "a1")
    until_limit(stack, "alice", 7)
    stack.stop(COLLECTOR)
    for each in stack.folder.glob("ledger.sqlite3*"):
        each.unlink()
    stack.start(COLLECTOR)
    stack.until_up(COLLECTOR)
    stack.report("alice", 9 * GIB, "a2")
    until("it is said", lambda: "another ledger" in reasons(stack))
    assert limits(stack)["alice"] == ("active", 7 * GIB)
    rebase(stack)
    until_limit(stack, "alice", 7)
    stack.report("alice", 6 * GIB, "a3")
    until("alice is limited", lambda: stack.user("alice")["status"] == "limited")
