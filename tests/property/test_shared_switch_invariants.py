"""Quotas that begin and cease to span panels, at any time: what is used stays used, and once.

Hypothesis drives three simulated panels, a ledger and a bridge through traffic, reports, resets,
panels that are down for a while, crashes, and `BRIDGE_QUOTAS_SPAN_PANELS` switched on and off. The
test keeps books of its own: what was used on each panel and reported for it since its last reset.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from marzban_bridge.quota.account import MIB, is_same_limit
from marzban_bridge.simulator.snapshot import restore_snapshot, to_snapshot
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.panels_world import PanelsWorld
from tests.support.examples import examples

PANELS = ("default", "two", "three")
ON = st.sampled_from(PANELS)
KINDS = st.fixed_dictionaries(dict.fromkeys(PANELS, st.sampled_from(("marzban", "pasarguard"))))
AMOUNTS = st.sampled_from((1, 11 * MIB, gib(0.7) + 11, gib(1.5) + 101, gib(3) + 1009))
OF_PANEL = {"alice": "default", "two/alice": "two", "three/alice": "three"}


class SwitchMachine(RuleBasedStateMachine):
    """Rules are what people, panels and fate do to the users called alice."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.world = None
        self.spans = False
        self.used = dict.fromkeys(PANELS, 0)
        self.unseen = dict.fromkeys(PANELS, 0)

    def teardown(self) -> None:
        try:
            if self.world:
                self.check()
        finally:
            if self.world:
                self.world.close()
            shutil.rmtree(self.folder)

    @initialize(spans=st.booleans(), kinds=KINDS)
    def create(self, spans, kinds):
        self.world = PanelsWorld(self.folder, *PANELS[1:], kinds=kinds)
        for panel in PANELS:
            self.world.panels[panel].create_user("alice", data_limit=gib(100))
        for name in OF_PANEL:
            self.report(name, 1)
        if spans:
            self.switch()
        self.look()

    def look(self):
        self.world.clock.advance(seconds=7)
        self.world.look(3)
        for panel in PANELS:
            if not self.is_down(panel):
                self.unseen[panel] = 0

    def is_down(self, panel):
        return self.world.transports[panel].is_down

    @rule(panel=ON, amount=AMOUNTS)
    def use(self, panel, amount):
        if self.world.panels[panel].get_user("alice")["status"] == "active":
            self.world.panels[panel].use_traffic("alice", amount)
            self.used[panel] += amount
            self.unseen[panel] += amount

    @rule(name=st.sampled_from(sorted(OF_PANEL)), amount=AMOUNTS)
    def report(self, name, amount):
        self.world.ledger.report(name, amount)
        self.used[OF_PANEL[name]] += amount

    @rule()
    def look_at_all(self):
        self.look()

    @rule(panel=ON, by_api=st.booleans())
    def reset(self, panel, by_api):
        """While the quota is shared it is a reset on all, also on those that are down."""
        if self.is_down(panel):
            return
        self.look()
        if by_api:
            self.world.attempt(
                lambda: self.world.bridge(panel).actions.reset_user("alice", actor="root")
            )
        elif self.world.panels[panel].get_user("alice")["used_traffic"] == 0:
            return  # without traffic its webhook alone would tell
        else:
            self.world.panels[panel].reset_user("alice")
        for each in PANELS if self.spans else (panel,):
            self.used[each] = self.unseen[each]
        self.look()

    @rule()
    def switch(self):
        self.spans = not self.spans
        self.world.restart(spans=self.spans)

    @rule(panel=ON, amount=AMOUNTS)
    def an_older_dump_is_put_back_and_accepted(self, panel, amount):
        """What the panel had counted since is forgiven by that."""
        self.look()
        user = self.world.panels[panel].get_user("alice")
        if self.is_down(panel) or user["status"] != "active" or not user["used_traffic"]:
            return  # a counter that falls to nothing may be a reset of all users
        older = to_snapshot(self.world.panels[panel])
        self.world.panels[panel].use_traffic("alice", amount)
        self.look()
        restore_snapshot(self.world.panels[panel], older)
        self.look()
        assert "in an earlier state" in self.world.bridge(panel).store.suspension.text
        self.world.attempt(lambda: self.world.bridge(panel).panel_rebase.apply(actor="root"))

    @rule(panel=ON)
    def goes_down(self, panel):
        if not any(map(self.is_down, PANELS)):
            self.look()
            self.world.transports[panel].is_down = True

    @rule()
    def all_are_up(self):
        for panel in PANELS:
            self.world.transports[panel].is_down = False

    @rule(panel=ON)
    def the_next_write_kills_the_bridge(self, panel):
        self.world.transports[panel].crash_after_writes = 1

    @rule()
    def check(self):
        for transport in self.world.transports.values():
            transport.is_down, transport.crash_after_writes = False, None
        self.look()
        self.look()
        found = {
            panel: self.world.external(panel)
            + self.world.panels[panel].get_user("alice")["used_traffic"]
            for panel in PANELS
        }
        if self.spans:
            assert found == dict.fromkeys(PANELS, sum(self.used.values()))
        else:
            assert found == self.used
        for panel in PANELS:
            account = self.world.account(panel)
            assert not account.is_held
            assert is_same_limit(account.quota_bytes, gib(100)), panel


TestSharedSwitch = SwitchMachine.TestCase
TestSharedSwitch.settings = settings(
    max_examples=examples(15),
    stateful_step_count=20,
    suppress_health_check=[HealthCheck.too_slow],
)
