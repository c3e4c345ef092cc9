"""After all crashes, the ledger, the feed and the enforced quota are what an outsider knows.

In the manner of Vector's acknowledgement tests: every acknowledged id arrived, none twice, none
that was not issued, and things go on afterwards.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from marzban_bridge.quota.account import FLOOR_BYTES, GIB
from marzban_bridge.quota.plan import PUBLISH_STEP_BYTES, PUBLISH_STEP_SHARE
from tests.support.processes import BRIDGE, COLLECTOR, PANEL, REPORTER_KEY, Stack, until

ORACLE = Path(__file__).with_name("oracle.py")
ORACLES = 3
ACCIDENTS = 12
USERS = [
    {"username": "small", "data_limit": 2 * GIB, "used_traffic": GIB},
    {"username": "outside", "data_limit": 3 * GIB},
    {"username": "large", "data_limit": 500 * GIB, "used_traffic": 7 * GIB},
    {"username": "endless", "data_limit": 0, "used_traffic": GIB},
    {"username": "away", "data_limit": GIB},
]
NAMES = [user["username"] for user in USERS]


@pytest.fixture
def stack(tmp_path):
    opened = Stack(tmp_path, USERS)
    opened.start(PANEL, COLLECTOR, BRIDGE)
    opened.until_up(PANEL, COLLECTOR, BRIDGE)
    opened.modify("away", status="disabled")
    yield opened
    opened.close()


def read_books(folder):
    issued, acknowledged = set(), Counter()
    for path in folder.glob("books-*"):
        for line in path.read_text().splitlines():
            report_id, username, amount = line.split()
            assert report_id not in issued
            issued.add(report_id)
            acknowledged[username] += int(amount)
    return len(issued), acknowledged


def feed_totals(stack):
    totals, after = {}, 0
    while True:
        page = stack.ask_collector(f"/v1/usage/changes?after={after}&limit=2")
        for change in page["changes"]:
            totals[change["username"]] = change["upload_bytes"] + change["download_bytes"]
        if page["next"] == page["head"]:
            return totals
        after = page["next"]


def enforced_problem(user, external):
    """Say what is wrong with how the panel treats a user; None if nothing is."""
    quota = next(each["data_limit"] for each in USERS if each["username"] == user["username"])
    used, shown, status = user["used_traffic"], user["data_limit"], user["status"]
    if user["username"] == "away":
        return None if (status, shown) == ("disabled", quota) else "an admin's choice was touched"
    if not quota:
        return None if (status, shown) == ("active", None) else "an unlimited user was limited"
    if used + external >= quota:
        return None if status in {"limited", "disabled"} else "a used-up quota is open"
    exact = max(FLOOR_BYTES, quota - external)
    step = max(PUBLISH_STEP_BYTES, (exact - used) * PUBLISH_STEP_SHARE)
    if status != "active" or not -(2**14) <= shown - exact <= step + 2**14:
        return f"{status} with a limit of {shown} instead of {exact}"
    return None


def cause_an_accident(stack, dice):
    name = dice.choice([COLLECTOR, COLLECTOR, BRIDGE, BRIDGE, PANEL])
    # A panel's database survives its process; the simulator's file is written at its end.
    stack.stop(name, signal.SIGTERM if name == PANEL else signal.SIGKILL)
    time.sleep(dice.uniform(0, 0.7))
    stack.start(name)
    if dice.random() < 0.6:
        stack.until_up(name)
    time.sleep(dice.uniform(0, 0.8))


def test_what_was_acknowledged_is_counted_once_and_enforced_through_every_crash(stack, tmp_path):
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails, to repeat it
    dice = random.Random(seed)
    stop = tmp_path / "stop"
    oracles = [
        subprocess.Popen(
            [
                *(sys.executable, ORACLE, stack.urls[COLLECTOR], REPORTER_KEY),
                *(tmp_path / f"books-{number}", stop, f"oracle-{number}", *NAMES),
            ]
        )
        for number in range(ORACLES)
    ]
    try:
        for _ in range(ACCIDENTS):
            cause_an_accident(stack, dice)
        stack.until_up(PANEL, COLLECTOR, BRIDGE)
    finally:
        stop.touch()
        for oracle in oracles:
            oracle.wait(60)
    assert [oracle.returncode for oracle in oracles] == [0] * ORACLES

    reports, acknowledged = read_books(tmp_path)
    assert reports > 500, "the test must have put the product under load"
    assert feed_totals(stack) == dict(acknowledged)
    in_ledger = {
        name: usage["upload_bytes"] + usage["download_bytes"]
        for name in NAMES
        for usage in [stack.ask_collector(f"/v1/usage/{name}")]
    }
    assert in_ledger == dict(acknowledged)
    assert stack.ask_collector("/v1/usage")["reports"] == reports
    for name in NAMES:
        until(
            f"{name} is treated as it should be",
            lambda name=name: not enforced_problem(stack.user(name), acknowledged[name]),
        )
    # And things go on: one more report of one user crosses its quota.
    stack.report("large", 500 * GIB, "after-all")
    until("large is limited", lambda: stack.user("large")["status"] == "limited")
    stack.reset_in_panel("large")
    until("large has its quota again", lambda: stack.user("large")["data_limit"] == 500 * GIB)
