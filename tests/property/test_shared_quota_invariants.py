"""Whatever happens on whichever panel, all of them stand alike in the end.

Hypothesis drives two simulated panels, a ledger and a bridge through traffic, reports under all
names, resets, quota edits, panels that are down for a while, and crashes of the bridge right after
a write. The test keeps books of its own.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from marzban_bridge.quota.account import FLOOR_BYTES, MIB, is_same_limit
from marzban_bridge.quota.balance import balance
from marzban_bridge.quota.plan import PUBLISH_STEP_BYTES, PUBLISH_STEP_SHARE
from marzban_bridge.simulator.snapshot import restore_snapshot, to_snapshot
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.panels_world import PanelsWorld
from tests.support.examples import examples

PANELS = ("default", "two")
ON = st.sampled_from(PANELS)
KINDS = st.fixed_dictionaries(dict.fromkeys(PANELS, st.sampled_from(("marzban", "pasarguard"))))
AMOUNTS = st.sampled_from((1, 11 * MIB, gib(0.7) + 11, gib(1.5) + 101, gib(3) + 1009))
QUOTAS = st.integers(min_value=1, max_value=40).map(lambda half: gib(half * 0.5 + 0.01) + 1)
"""As people type them: odd limits in a row are another bridge's where no line tells whose."""


class SharedQuotaMachine(RuleBasedStateMachine):
    """Rules are what people, panels and fate do to the users called alice."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.world = None
        self.used = 0
        self.unseen = dict.fromkeys(PANELS, 0)

    def teardown(self) -> None:
        try:
            if self.world:
                self.check()
        finally:
            if self.world:
                self.world.close()
            shutil.rmtree(self.folder)

    @initialize(limits=st.tuples(QUOTAS, st.none() | QUOTAS), kinds=KINDS)
    def create(self, limits, kinds):
        self.world = PanelsWorld(self.folder, *PANELS[1:], spans=True, kinds=kinds)
        for panel, limit in zip(PANELS, limits, strict=True):
            self.world.panels[panel].create_user("alice", data_limit=limit)
        self.quota = limits[0]
        self.report("alice", 1)
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
        user = self.world.panels[panel].get_user("alice")
        if user["status"] == "active":
            self.world.panels[panel].use_traffic("alice", amount)
            self.used += amount
            self.unseen[panel] += amount

    @rule(name=st.sampled_from(("alice", "ALICE", "two/alice", "default/Alice")), amount=AMOUNTS)
    def report(self, name, amount):
        """Whose a name is that no panel spells so is not known while one of them is down."""
        if name in {"ALICE", "default/Alice"} and any(map(self.is_down, PANELS)):
            return
        self.world.ledger.report(name, amount)
        self.used += amount

    @rule()
    def look_at_all(self):
        self.look()

    @rule(panel=ON)
    def the_panel_reviews(self, panel):
        self.world.panels[panel].review()

    @rule(panel=ON, by_api=st.booleans())
    def reset(self, panel, by_api):
        """A panel that is down is reset by its button, and that cannot be seen yet."""
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
        self.used = sum(self.unseen.values())
        self.look()

    @rule(panel=ON, quota=QUOTAS)
    def set_the_quota(self, panel, quota):
        if self.is_down(panel):
            return
        self.look()
        self.world.panels[panel].modify_user("alice", {"data_limit": quota})
        self.quota = quota
        self.look()

    @rule(panel=ON)
    def save_the_dialog_without_a_change(self, panel):
        self.look()
        self.world.panels[panel].edit_in_dialog("alice", note="touched")

    @precondition(lambda self: not any(self.is_down(panel) for panel in PANELS))
    @rule(panel=ON)
    def goes_down(self, panel):
        self.look()
        self.world.transports[panel].is_down = True

    @rule()
    def all_are_up(self):
        for panel in PANELS:
            self.world.transports[panel].is_down = False

    @rule(panel=ON, writes=st.integers(min_value=1, max_value=3))
    def one_of_the_next_writes_kills_the_bridge(self, panel, writes):
        self.world.transports[panel].crash_after_writes = writes

    @rule()
    def restart(self):
        self.world.restart()

    @rule(panel=ON, amount=AMOUNTS, is_other_down=st.booleans())
    def an_older_dump_is_put_back_and_accepted(self, panel, amount, is_other_down):
        """What the panel had counted since is forgiven by that, on all panels."""
        self.look()
        user = self.world.panels[panel].get_user("alice")
        if self.is_down(panel) or user["status"] != "active" or not user["used_traffic"]:
            return  # a counter that falls to nothing may be a reset of all users
        older = to_snapshot(self.world.panels[panel])
        self.world.panels[panel].use_traffic("alice", amount)
        self.look()
        restore_snapshot(self.world.panels[panel], older)
        self.look()
        (other,) = set(PANELS) - {panel}
        self.world.transports[other].is_down |= is_other_down
        assert "in an earlier state" in self.world.bridge(panel).store.suspension.text
        self.world.attempt(lambda: self.world.bridge(panel).panel_rebase.apply(actor="root"))

    @invariant()
    def all_say_the_same_of_the_period(self):
        """Whatever was seen last of which panel, and whichever is down."""
        accounts = {panel: self.world.account(panel) for panel in PANELS}
        newest = max((each.shared_period for each in accounts.values() if each), default=None)
        said = {
            panel: balance(
                account, total_bytes=self.world.bridge(panel).store.usage.total_bytes("alice")
            ).used_bytes
            for panel, account in accounts.items()
            if account and account.shared_period == newest
        }
        assert len(set(said.values())) <= 1, said

    def check(self):
        self.all_are_up()
        for transport in self.world.transports.values():
            transport.crash_after_writes = None
        self.look()
        for panel in PANELS:
            self.world.panels[panel].review()
        self.look()
        for transport in self.world.transports.values():
            transport.writes.clear()
        self.look()
        for panel in PANELS:
            assert self.world.transports[panel].writes == [], "settled is settled"
            account = self.world.account(panel)
            user = self.world.panels[panel].get_user("alice")
            assert not account.is_held
            assert is_same_limit(account.quota_bytes, self.quota), panel
            external = self.world.external(panel)
            assert external + user["used_traffic"] == self.used, panel
            self.check_enforced(account.quota_bytes, user, external)

    def check_enforced(self, quota, user, external):
        used, exact = user["used_traffic"], max(min(FLOOR_BYTES, quota), quota - external)
        if used + external >= quota:
            assert user["status"] in {"limited", "disabled"}
            return
        assert user["status"] == "active"
        step = max(PUBLISH_STEP_BYTES, (exact - used) * PUBLISH_STEP_SHARE)
        assert -16 * 1024 <= user["data_limit"] - exact <= step + MIB


TestSharedQuotaInvariants = SharedQuotaMachine.TestCase
TestSharedQuotaInvariants.settings = settings(
    max_examples=examples(12),
    stateful_step_count=20,
    suppress_health_check=[HealthCheck.too_slow],
)
