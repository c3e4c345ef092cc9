"""How the demonstration ends: its books balance, do not, or cannot be judged."""

from __future__ import annotations

import dataclasses
import io
import random
import time

import pytest
from rich.console import Console

from marzban_bridge.demo.run import Outcome, conclude
from marzban_bridge.demo.stage import PATIENCE_SECONDS, Stage
from marzban_bridge.demo.verdict import Line

RIGHT = Line(
    username="alice",
    status="active",
    balance=None,
    reported_bytes=1234,
    ledger_bytes=1234,
    data_limit_bytes=None,
    problems=(),
)
WRONG = dataclasses.replace(RIGHT, problems=("the bridge counts 7",))


@pytest.mark.parametrize(
    ("lines", "outcome", "code", "verdict"),
    [
        ([RIGHT], Outcome(), 0, "The books balance: 1,234 bytes"),
        ([RIGHT, WRONG], Outcome(), 1, "The books do NOT balance: 2,468 bytes"),
        ([RIGHT], Outcome(failures=["button: no"]), 1, "The books do NOT balance"),
        ([RIGHT], Outcome(late=["button: no"]), 1, "The books cannot be judged"),
        # What a story that has not ended leaves behind is no fault of the books.
        ([WRONG], Outcome(late=["button: no"]), 1, "The books cannot be judged"),
        ([WRONG], Outcome(["button: no"], ["reseller: no"]), 1, "The books do NOT balance"),
    ],
)
def test_only_what_came_in_time_is_judged(lines, outcome, code, verdict):
    console = Console(file=io.StringIO(), width=110)
    assert conclude(console, {"requests": 3}, lines, outcome, 9.0) == code
    said = console.file.getvalue()
    assert verdict in said
    assert all(each in said for each in (*outcome.failures, *outcome.late))


def test_traffic_flows_until_every_story_has_ended_and_not_for_ever():
    stage = Stage(
        panel=None,
        bridges=None,
        collector_url="",
        bridge_url="",
        reporter_key="",
        random=random.Random(1),
        ends_at=time.monotonic() - 1,
        untold={"button"},
    )
    assert not stage.is_over
    stage.untold.clear()
    assert stage.is_over
    stage.untold.add("button")
    stage.ends_at -= PATIENCE_SECONDS
    assert stage.is_over
