"""Whatever happens to users of resellers: the sums are a naive count, and so is who may go on.

Hypothesis draws traffic, moves, resets of every kind, deletions, edits of quotas, users whom an
admin disables, restarts, and crashes of the bridge right after a write.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from marzban_bridge.quota.account import MIB
from marzban_bridge.quota.resellers.reseller import ResellerChange
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.resellers import add_resellers, move, status
from tests.support.bridge.world import World
from tests.support.examples import examples

ADMINS = st.sampled_from(("shop", "mart"))
USERS = st.sampled_from(("alice", "bob", "carol"))
AMOUNTS = st.sampled_from((0, 1, 7 * MIB, 90 * MIB + 3))
QUOTAS = st.sampled_from((1, 80 * MIB, 200 * MIB))


@dataclass
class Quota:
    """What the test knows of a reseller."""

    quota_bytes: int
    is_enforced: bool
    used_bytes: int = 0

    @property
    def is_cut_off(self) -> bool:
        return self.is_enforced and self.used_bytes >= self.quota_bytes


@dataclass
class User:
    """What the test knows of a user."""

    owner: str
    is_disabled_by_admin: bool = False


class ResellerMachine(RuleBasedStateMachine):
    """Rules are what users, admins and fate do; after each the bridge looks."""

    @initialize(kind=st.sampled_from(("marzban", "pasarguard")))
    def open_world(self, kind):
        self.folder = Path(tempfile.mkdtemp())
        self.world = World(self.folder, kind=kind)
        add_resellers(self.world, "shop", "mart")
        self.quotas: dict[str, Quota] = {}
        self.users: dict[str, User] = {}
        for name, owner in (("alice", "shop"), ("bob", "shop"), ("carol", "mart")):
            self.create(name, owner)
        self.look()

    def teardown(self):
        if hasattr(self, "world"):
            self.world.close()
            shutil.rmtree(self.folder)

    def create(self, name, owner):
        limit = None if name == "bob" else gib(500)
        self.world.panel.create_user(name, by=owner, data_limit=limit)
        self.users[name] = User(owner)

    def is_cut_off(self, name):
        quota = self.quotas.get(self.users[name].owner)
        return quota is not None and quota.is_cut_off

    def look(self, *, is_fatal=False):
        """Have the bridge look twice, a minute apart, and compare it with the naive count."""
        if is_fatal:
            self.world.transport.crash_after_writes = 1
        for _ in range(2):
            self.world.clock.advance(seconds=70)
            self.world.one_pass()
        self.world.transport.crash_after_writes = None
        store = self.world.bridge.store
        assert not store.suspension.reasons
        used = {each.admin: each.used_bytes for each in store.resellers.all()}
        assert used == {admin: each.used_bytes for admin, each in self.quotas.items()}
        for name, user in self.users.items():
            is_off = user.is_disabled_by_admin or self.is_cut_off(name)
            assert (name, status(self.world, name)) == (name, "disabled" if is_off else "active")

    @rule(name=USERS, panel_bytes=AMOUNTS, external_bytes=AMOUNTS, is_fatal=st.booleans())
    def use(self, name, panel_bytes, external_bytes, is_fatal):
        if not self.world.panel.use_traffic(name, panel_bytes):
            panel_bytes = 0
        self.world.ledger.report(name, external_bytes)
        if quota := self.quotas.get(self.users[name].owner):
            quota.used_bytes += panel_bytes + external_bytes
        self.look(is_fatal=is_fatal)

    @rule(name=USERS, admin=ADMINS, is_fatal=st.booleans())
    def move(self, name, admin, is_fatal):
        move(self.world, name, admin)
        self.users[name].owner = admin
        self.look(is_fatal=is_fatal)

    @rule(name=USERS, by=st.sampled_from(("button", "bridge", "all")))
    def reset_user(self, name, by):
        if by == "bridge":
            self.world.run(self.world.bridge.actions.reset_user(name, actor="test"))
        elif by == "button":
            self.world.panel.reset_user(name)
        else:
            self.world.panel.reset_all()
        for each, user in self.users.items():
            # A reset in the panel makes users active there whom an admin disabled.
            if by != "bridge" and status(self.world, each) == "active":
                user.is_disabled_by_admin = False
        self.look()

    @rule(admin=ADMINS, quota_bytes=QUOTAS, is_enforced=st.booleans(), is_fatal=st.booleans())
    def set_quota(self, admin, quota_bytes, is_enforced, is_fatal):
        change = ResellerChange(quota_bytes=quota_bytes, is_enforced=is_enforced)
        self.world.run(self.world.bridge.resellers.set(admin, change, actor="test"))
        quota = self.quotas.setdefault(admin, Quota(quota_bytes, is_enforced))
        quota.quota_bytes, quota.is_enforced = quota_bytes, is_enforced
        self.look(is_fatal=is_fatal)

    @rule(admin=ADMINS, is_fatal=st.booleans())
    def reset_quota(self, admin, is_fatal):
        if admin in self.quotas:
            self.world.bridge.resellers.reset(admin, actor="test")
            self.quotas[admin].used_bytes = 0
            self.look(is_fatal=is_fatal)

    @rule(admin=ADMINS)
    def unset_quota(self, admin):
        if self.quotas.pop(admin, None):
            self.world.bridge.resellers.unset(admin, actor="test")
            self.look()

    @rule(name=USERS)
    def switch(self, name):
        """An admin disables a user, or makes it active; of a cut off one neither can be told."""
        user = self.users[name]
        if not self.is_cut_off(name) or user.is_disabled_by_admin:
            wanted = "active" if user.is_disabled_by_admin else "disabled"
            self.world.panel.modify_user(name, {"status": wanted})
            user.is_disabled_by_admin = not user.is_disabled_by_admin
            self.look()

    @rule(name=USERS, admin=ADMINS, is_seen=st.booleans(), panel_bytes=AMOUNTS)
    def create_again(self, name, admin, is_seen, panel_bytes):
        self.world.panel.delete_user(name, by=self.users.pop(name).owner)
        if is_seen:
            self.look()
        self.world.clock.advance(seconds=30)
        self.create(name, admin)
        self.world.panel.use_traffic(name, panel_bytes)
        if quota := self.quotas.get(admin):
            quota.used_bytes += panel_bytes
        self.look()

    @rule()
    def restart(self):
        self.world.restart()
        self.look()


TestResellers = ResellerMachine.TestCase
TestResellers.settings = settings(
    max_examples=examples(8),
    stateful_step_count=12,
    suppress_health_check=list(HealthCheck),
)
