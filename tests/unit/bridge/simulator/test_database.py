"""What befalls the simulated panel's database, as a file of faults asks for it."""

from __future__ import annotations

import pytest

from marzban_bridge.simulator.panel.database import PanelDatabase
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from tests.support.clocks import ManualClock


@pytest.fixture
def panel():
    clock = ManualClock()
    clock.advance(seconds=0.5)
    panel = SimulatedPanel(clock=clock)
    panel.create_user("alice", data_limit=10)
    return panel


def test_each_step_of_a_growing_list_is_done_once(panel):
    database = PanelDatabase(panel)
    database.follow(["dump night"])
    panel.use_traffic("alice", 5)
    database.follow(["dump night", "restore night"])
    assert panel.get_user("alice")["used_traffic"] == 0
    panel.use_traffic("alice", 7)
    database.follow(["dump night", "restore night"])
    assert panel.get_user("alice")["used_traffic"] == 7
    database.follow(["dump night", "restore night", "empty"])
    assert panel.users == {}
    database.follow(["dump night", "restore night", "empty", "restore night", "cut-seconds"])
    assert panel.find("alice").created_at.microsecond == 0


def test_what_is_no_step_is_named(panel):
    with pytest.raises(ValueError, match="no step of a panel's database: 'forget'"):
        PanelDatabase(panel).follow(["forget"])
