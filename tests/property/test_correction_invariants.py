"""Reports, reads, resets, voids and adjustments in any order: what is left is what was really used.

The test keeps books of its own: which reports there are, which were taken back, and which of them
the bridge had read when a period began. The feed is read a page of one user at a time, so that
periods begin in the middle of reading it.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from marzban_bridge.feed import client as feed
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.world import World
from tests.support.examples import examples

NAMES = {"alice": "alice", "default/alice": "alice", "bob": "bob"}
"""Reported names, and whose they are."""
AMOUNTS = st.integers(min_value=1, max_value=3 * gib(1))


@dataclass
class Counted:
    """A report, or an adjustment, as the test counts it."""

    seq: int
    name: str
    amount_bytes: int
    is_voided: bool = False


@dataclass
class Period:
    """A user's current period: what of each name came before it."""

    before: dict[str, int] = field(default_factory=dict)
    """By name, up to which number it was read when the period began."""
    adjusted_bytes: int = 0


class CorrectionMachine(RuleBasedStateMachine):
    """Rules are what senders, operators, admins and fate do."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.world = World(self.folder)
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(feed, "PAGE_SIZE", 1)
        self.counted: list[Counted] = []
        self.periods = {user: Period() for user in NAMES.values()}

    def teardown(self) -> None:
        try:
            self.look()
            self.check_all()
        finally:
            self.patch.undo()
            self.world.close()
            shutil.rmtree(self.folder)

    @initialize()
    def open_accounts(self):
        for user in self.periods:
            self.world.panel.create_user(user, data_limit=gib(100_000))
            self.report(user, 1)
        self.look()

    @rule(name=st.sampled_from(sorted(NAMES)), amount=AMOUNTS)
    def report(self, name, amount):
        seq = self.world.ledger.report(name, amount)
        self.counted.append(Counted(seq, name, amount))

    @rule()
    def read_a_page(self):
        self.world.run(self.world.bridges.feed_reader.read(wait_seconds=0))

    @rule()
    def look(self):
        self.world.clock.advance(seconds=7)
        self.world.one_pass()

    @rule()
    def look_without_reading(self):
        self.world.clock.advance(seconds=7)
        self.world.run(self.world.bridge.reconciler.pass_over_all())

    @rule()
    def restart(self):
        self.world.restart()

    @rule()
    def read_everything_anew(self):
        self.world.run(self.world.bridges.rebase(actor="root"))

    def read_through(self, name):
        """Tell up to which number a name was read, by the total that the bridge has of it."""
        row = self.world.bridge.store._handle.db.execute(
            "SELECT total_bytes FROM external_usage WHERE username = ?", (name,)
        ).fetchone()
        left_bytes = row[0] if row else 0
        through = 0
        for each in self.counted:
            if each.name == name and left_bytes > 0 and each.amount_bytes > 0:
                left_bytes -= each.amount_bytes
                through = each.seq
        assert left_bytes == 0
        return through

    @rule(user=st.sampled_from(["alice", "bob"]), presses=st.booleans())
    def reset(self, user, presses):
        before = {name: self.read_through(name) for name, whose in NAMES.items() if whose == user}
        if presses:
            self.world.panel.use_traffic(user, 5)
            self.look_without_reading()
            self.world.panel.reset_user(user)
            self.look_without_reading()
        else:
            self.world.run(self.world.bridge.actions.reset_user(user, actor="root"))
        self.periods[user] = Period(before)

    @rule(which=st.sets(st.integers(0, 40), min_size=1, max_size=6))
    def void(self, which):
        """Not of users from whom an adjustment took some of it: usage ends at nothing."""
        reports = [
            each
            for number, each in enumerate(self.counted)
            if number in which and self.periods[NAMES[each.name]].adjusted_bytes >= 0
        ]
        self.world.ledger.void(*(each.seq for each in reports))
        for each in reports:
            each.is_voided = True

    @rule(user=st.sampled_from(["alice", "bob"]), share=st.integers(-100, 100))
    def adjust(self, user, share):
        """Take off at most what is left of the period, or add; the bridge is told at once."""
        self.look()
        amount = self.expected(user) * share // 100
        if amount:
            self.world.ledger.adjust(user, amount)
            self.periods[user].adjusted_bytes += amount
            self.look()

    def expected(self, user):
        before = self.periods[user].before
        reports = sum(
            each.amount_bytes
            for each in self.counted
            if NAMES[each.name] == user
            and not each.is_voided
            and each.seq > before.get(each.name, 0)
        )
        return reports + self.periods[user].adjusted_bytes

    def external(self, user):
        account = self.world.account(user)
        return self.world.bridge.store.usage.total_bytes(user) - account.baseline_bytes

    @invariant()
    def no_usage_is_negative(self):
        for account in self.world.bridge.store.accounts.all():
            assert self.external(account.username) >= 0

    def check_all(self):
        for user in self.periods:
            assert self.external(user) == self.expected(user), user
            account = self.world.account(user)
            assert account.quota_bytes == gib(100_000)
            raw = self.world.bridge.store.usage.totals(user).raw_bytes - account.raw_baseline_bytes
            assert raw == self.expected(user)


TestCorrections = CorrectionMachine.TestCase
TestCorrections.settings = settings(
    max_examples=examples(8),
    stateful_step_count=25,
    suppress_health_check=list(HealthCheck),
)
