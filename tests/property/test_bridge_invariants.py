"""Whatever happens, and in whatever order: the books and the panel agree in the end.

Hypothesis drives a simulated panel, a ledger and a bridge through reports, resets of every kind,
quota edits, re-created users, webhooks that are lost, repeated or late, and crashes of the bridge
right after a write. A second machine changes what a byte counts for in between. The test keeps
books of its own.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from marzban_bridge.errors import PanelUnavailableError
from marzban_bridge.panels.users import Status
from marzban_bridge.quota.account import FLOOR_BYTES, GIB, MIB, is_same_limit
from marzban_bridge.quota.plan import PUBLISH_STEP_BYTES, PUBLISH_STEP_SHARE, plan
from marzban_bridge.quota.writes.note_line import NoteLine, read_lines, with_line
from marzban_bridge.quota.writes.open_writes import LATE_WRITE_SECONDS
from marzban_bridge.reconcile.trust.second_bridge import GONE_SECONDS
from marzban_bridge.simulator.panel.database import PanelDatabase
from marzban_bridge.simulator.panel.pasarguard import change_limits
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.webhook_delivery import deliver
from tests.support.bridge.world import World
from tests.support.examples import examples

NAMES = ("alice", "bob", "carol")
ODD_BYTES = 1_234_567
QUOTAS = st.integers(min_value=1, max_value=40).map(lambda half: half * gib(0.5) + ODD_BYTES)
# Hypothesis likes small integers, and small reports bring about no write.
AMOUNTS = st.sampled_from((1, 11 * MIB, gib(0.7) + 11, gib(1.5) + 101, 3 * GIB + 1009))


@dataclass
class Books:
    """What the test knows of one user, beside the panel and the bridge."""

    quota_bytes: int | None
    billed_bytes: int = 0
    """What was reported counts for; the same as the bytes themselves while there are no ratios."""
    raw_bytes: int = 0
    period_may_begin_at: set[tuple[int, int]] = field(default_factory=lambda: {(0, 0)})
    """Billed and raw totals at which the current period may have begun."""
    is_disabled_by_admin: bool = False

    @property
    def totals(self) -> tuple[int, int]:
        return self.billed_bytes, self.raw_bytes


class BridgeMachine(RuleBasedStateMachine):
    """Rules are what people, panels and fate do."""

    uses_notes = True
    kind = "marzban"

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.world = World(self.folder, kind=self.kind, uses_notes=self.uses_notes)
        self.books: dict[str, Books] = {}
        self.late_webhooks: list[dict[str, object]] = []
        self.ratio_millis = 1000

    def teardown(self) -> None:
        try:
            self.settle()
            self.check()
        finally:
            self.world.close()
            shutil.rmtree(self.folder)

    @initialize()
    def open_accounts(self):
        for name in NAMES:
            self.create(name, gib(10))

    def create(self, name, quota_bytes):
        self.world.panel.create_user(
            name, data_limit=quota_bytes, data_limit_reset_strategy="month"
        )
        books = self.books.get(name)
        starts = {(0, 0)} if books is None else {books.totals}
        anew = Books(quota_bytes=quota_bytes)
        if books is not None:
            anew.billed_bytes, anew.raw_bytes = books.totals
        self.books[name] = anew
        self.count(name, 1)
        if books is not None:
            starts.add(anew.totals)
        anew.period_may_begin_at = starts
        self.look()

    def count(self, name, amount):
        self.world.ledger.report(name, amount)
        self.books[name].billed_bytes += amount * self.ratio_millis // 1000
        self.books[name].raw_bytes += amount

    def look(self):
        """Let the bridge look at everybody, and time pass so that no two looks coincide."""
        self.world.clock.advance(seconds=7)
        self.world.one_pass()

    @rule(name=st.sampled_from(NAMES), amount=AMOUNTS, is_fatal=st.booleans())
    def report(self, name, amount, is_fatal):
        """Half of the writes that reports bring about kill the bridge before it can store them."""
        self.count(name, amount)
        if is_fatal:
            self.world.transport.crash_after_writes = 1
            self.look()

    @rule(name=st.sampled_from(NAMES), amount=AMOUNTS)
    def use_the_panels_nodes(self, name, amount):
        self.world.panel.use_traffic(name, amount)

    @rule()
    def pass_over_all(self):
        self.look()

    @rule()
    def the_panel_reviews(self):
        self.world.panel.review()

    @rule(name=st.sampled_from(NAMES))
    def press_reset(self, name):
        """Look first, so that the total at which the period begins is known.

        A press whose webhook comes together with that of the bridge's own reset before it, for a
        user who used nothing in between, cannot be told from its echo: the earlier beginning holds.
        """
        self.look()
        account = self.world.account(name)
        awaits_echo = account.echo_until is not None and self.world.clock() < account.echo_until
        used = self.world.panel.get_user(name)["used_traffic"]
        self.world.panel.reset_user(name)
        books = self.books[name]
        if Status.DISABLED in self.world.panel.dialect.woken_by_reset:
            books.is_disabled_by_admin = False
        if used:
            self.look()
        else:
            # Without panel traffic only the webhook tells.
            self.deliver(self.world.panel.take_webhooks())
        begins = {books.totals}
        may_be_echo = awaits_echo and not used
        books.period_may_begin_at = books.period_may_begin_at | begins if may_be_echo else begins

    @rule(name=st.sampled_from(NAMES))
    def reset_by_our_api(self, name):
        self.look()
        self.world.attempt(lambda: self.world.bridge.actions.reset_user(name, actor="root"))
        self.look()
        self.books[name].period_may_begin_at = {self.books[name].totals}

    @rule()
    def reset_all_in_the_panel(self):
        self.look()
        self.world.panel.reset_all("root")
        is_proved = any(
            (self.world.bridge.store.accounts.get(name)) is not None
            and (
                self.world.account(name).sighting.used_bytes > 0
                or self.world.account(name).sighting.logged_bytes > 0
            )
            for name in NAMES
        )
        self.look()
        self.look()
        for books in self.books.values():
            begins = {books.totals}
            books.period_may_begin_at = begins if is_proved else books.period_may_begin_at | begins

    @rule()
    def a_month_passes(self):
        """Webhooks do not wait so long: the panel tries each four times, within minutes."""
        self.look()
        self.world.panel.take_webhooks()
        self.late_webhooks = []
        self.world.clock.advance(days=31)
        self.world.panel.reset_periodic()
        self.world.clock.advance(hours=1, minutes=10)
        self.look()
        for books in self.books.values():
            begins = {books.totals}
            books.period_may_begin_at = (
                books.period_may_begin_at | begins if books.is_disabled_by_admin else begins
            )

    @rule(name=st.sampled_from(NAMES), quota=QUOTAS, is_fatal=st.booleans())
    def edit_the_quota(self, name, quota, is_fatal):
        """Without notes as people type it: of odd limits in a row another bridge is suspected."""
        quota -= 0 if self.uses_notes else ODD_BYTES
        self.look()
        if not self.uses_notes and any(
            each.data_limit_bytes == quota for each in self.world.account(name).open_writes
        ):
            return  # to the byte what a write may still set
        self.world.panel.modify_user(name, {"data_limit": quota})
        self.books[name].quota_bytes = quota
        self.world.transport.crash_after_writes = 1 if is_fatal else None
        self.look()

    @rule(name=st.sampled_from(NAMES))
    def save_the_dialog_without_a_change(self, name):
        self.look()
        self.world.panel.edit_in_dialog(name, note="touched")

    @rule(name=st.sampled_from(NAMES))
    def disable_by_hand(self, name):
        """While a DISABLE may still land, who disabled the user is not told from the values."""
        self.look()
        writes = self.world.account(name).open_writes
        if not self.uses_notes and any(each.status is Status.DISABLED for each in writes):
            return
        if self.world.panel.get_user(name)["status"] in {"active", "limited"}:
            self.world.panel.modify_user(name, {"status": "disabled"})
            self.books[name].is_disabled_by_admin = True
            self.look()

    @rule(name=st.sampled_from(NAMES))
    def enable_by_hand(self, name):
        if self.books[name].is_disabled_by_admin:
            self.look()
            self.world.panel.modify_user(name, {"status": "active"})
            self.books[name].is_disabled_by_admin = False
            self.look()

    @rule(name=st.sampled_from(NAMES), waits=st.booleans())
    def let_in_by_hand_whom_the_bridge_disabled(self, name, waits):
        """Resets nothing, however long the bridge is given to believe that it did."""
        self.look()
        if self.world.account(name).is_disabled_by_us:
            self.world.panel.modify_user(name, {"status": "active"})
            self.look()
            self.world.clock.advance(seconds=61 if waits else 0)

    @rule(name=st.sampled_from(NAMES), quota=QUOTAS)
    def delete_and_create_again(self, name, quota):
        self.look()
        self.world.panel.delete_user(name)
        self.look()
        self.world.clock.advance(seconds=3)
        self.create(name, quota)

    @rule(fate=st.sampled_from(["deliver", "twice", "later", "lose"]))
    def webhooks_arrive(self, fate):
        """Only of resets that polling noticed; those it cannot notice are delivered at once."""
        batch = self.world.panel.take_webhooks()
        if fate in {"deliver", "twice"}:
            self.deliver(batch)
        if fate == "twice":
            self.deliver(batch)
        if fate == "later":
            self.late_webhooks += batch

    @rule()
    def late_webhooks_arrive_reversed(self):
        batch, self.late_webhooks = self.late_webhooks[::-1], []
        self.deliver(batch)

    @rule(writes=st.integers(min_value=1, max_value=3))
    def one_of_the_next_writes_kills_the_bridge(self, writes):
        self.world.transport.crash_after_writes = writes

    @rule(name=st.sampled_from(NAMES), amount=AMOUNTS)
    def a_write_times_out(self, name, amount):
        """The panel carries it out when `what_timed_out_is_carried_out` says so, or never."""
        self.world.transport.delayed_writes = 1
        self.count(name, amount)
        with contextlib.suppress(PanelUnavailableError):
            self.look()
        self.world.transport.delayed_writes = 0

    @rule(newest_first=st.booleans(), seconds=st.sampled_from((1, 25, 240)))
    def what_timed_out_is_carried_out(self, newest_first, seconds):
        """As late as writes may land; longer ago, nobody can tell them from an admin's edits."""
        oldest_at = self.world.clock() - timedelta(seconds=LATE_WRITE_SECONDS - seconds - 10)
        self.world.transport.forget_delayed(before=oldest_at)
        self.world.clock.advance(seconds=seconds)
        self.world.run(self.world.transport.carry_out_delayed(newest_first=newest_first))
        self.look()

    @rule()
    def restart(self):
        self.world.restart()

    def deliver(self, batch):
        deliver(self.world, batch)
        self.look()

    def settle(self):
        self.world.transport.crash_after_writes = None
        self.look()
        self.world.clock.advance(seconds=61)
        for _ in range(3):
            self.look()
            self.world.panel.review()

    @invariant()
    def quotas_are_the_admins_last_word(self):
        for name, books in self.books.items():
            account = self.world.bridge.store.accounts.get(name)
            if account and account.sighting.seen_at == self.world.clock():
                assert is_same_limit(account.quota_bytes, books.quota_bytes), name

    def check(self):
        for name, books in self.books.items():
            account = self.world.account(name)
            user = self.world.panel.get_user(name)
            total = self.world.ledger.total_bytes(name)
            assert total == books.billed_bytes == self.world.bridge.store.usage.total_bytes(name)
            assert self.world.bridge.store.usage.totals(name).raw_bytes == books.raw_bytes
            assert is_same_limit(account.quota_bytes, books.quota_bytes)
            begun_at = (account.baseline_bytes, account.raw_baseline_bytes)
            assert begun_at in books.period_may_begin_at, name
            assert (
                plan(
                    account,
                    total_bytes=total,
                    enforcement=self.world.settings.enforcement,
                    now=self.world.clock(),
                    dialect=self.world.bridge.panel.dialect,
                )
                is None
            )
            if books.is_disabled_by_admin:
                assert user["status"] == "disabled"
                assert not account.is_disabled_by_us
                continue
            self.check_enforced(account, user, total)

    def check_enforced(self, account, user, total):
        external = total - account.baseline_bytes
        exact = max(min(FLOOR_BYTES, account.quota_bytes), account.quota_bytes - external)
        used = user["used_traffic"]
        if used + external >= account.quota_bytes:
            assert user["status"] in {"limited", "disabled"}
            return
        assert user["status"] == "active"
        assert not account.is_disabled_by_us
        step = max(PUBLISH_STEP_BYTES, (exact - used) * PUBLISH_STEP_SHARE)
        assert -16 * 1024 <= user["data_limit"] - exact <= step + MIB


MACHINE_SETTINGS = settings(
    max_examples=examples(16),
    stateful_step_count=25,
    suppress_health_check=[HealthCheck.too_slow],
)


class MachineWithNotes(BridgeMachine):
    """The same with what only the lines in the notes bring the bridge through."""

    @rule(name=st.sampled_from(NAMES))
    def another_bridge_leaves_a_line(self, name):
        """No user is changed until it counts as gone."""
        self.look()
        self.world.transport.crash_after_writes = None  # a restart renews our line once more
        note = self.world.panel.get_user(name)["note"]
        line = NoteLine(
            store="0abcdef0",
            number=int(self.world.clock().timestamp()),
            place="trial",
            quota_bytes=gib(1),
            limit_bytes=gib(1),
            external_bytes=0,
            total_bytes=0,
        )
        self.world.panel.modify_user(name, {"note": with_line(note, line, username=name)})
        writes = len(self.world.transport.writes)
        self.count(name, 3 * GIB)
        self.look()
        assert len(self.world.transport.writes) <= writes + 1, "no more than a line of ours"
        self.world.clock.advance(seconds=GONE_SECONDS)
        self.look()
        assert not self.world.bridge.store.suspension.reasons

    @rule()
    def the_store_is_lost_and_rebuilt(self):
        """Where each user's line says what the limit beside it means.

        What a store remembers of webhooks, and of writes that may still land, is lost with it.
        """
        self.look()
        for name in NAMES:
            user = self.world.panel.get_user(name)
            lines = read_lines(user["note"], username=name)
            if [line.limit_bytes for line in lines] != [user["data_limit"]]:
                return
            if lines[0].quota_bytes != self.books[name].quota_bytes:
                return
            if lines[0].baseline_bytes != self.world.account(name).baseline_bytes:
                return  # a reset after which nothing had to be written
            if self.world.account(name).raw_baseline_bytes != lines[0].baseline_bytes:
                return
        self.world.panel.take_webhooks()
        self.late_webhooks = []
        self.world.transport.forget_delayed(before=self.world.clock() + timedelta(seconds=1))
        self.world.lose_store()
        self.world.run(
            self.world.bridges.rebuild(from_store=None, is_carried_out=True, actor="root")
        )
        self.look()


TestBridgeInvariantsWithNotes = MachineWithNotes.TestCase
TestBridgeInvariantsWithNotes.settings = settings(MACHINE_SETTINGS, max_examples=examples(16))


class MachineWithoutNotes(BridgeMachine):
    """The same where users' notes are left alone, and only the values tell."""

    uses_notes = False


TestBridgeInvariantsWithoutNotes = MachineWithoutNotes.TestCase
TestBridgeInvariantsWithoutNotes.settings = settings(MACHINE_SETTINGS, max_examples=examples(16))


class LyingPanelMachine(BridgeMachine):
    """The same with a panel whose database is emptied, restored and moved."""

    def __init__(self) -> None:
        super().__init__()
        self.database = PanelDatabase(self.world.panel)

    @rule(passes=st.integers(min_value=1, max_value=3), amount=AMOUNTS)
    def the_panel_is_empty_for_some_passes(self, passes, amount):
        """What is reported meanwhile counts once the users are back."""
        self.look()
        self.database.dump("meanwhile")
        self.database.empty()
        for _ in range(passes):
            self.look()
        self.count("alice", amount)
        self.look()
        self.database.restore("meanwhile")
        self.look()

    @rule(is_put_forward=st.booleans(), used=st.lists(AMOUNTS, min_size=3, max_size=3))
    def the_panel_is_restored_from_a_backup(self, is_put_forward, used):
        """Then its newer database is put back, or the panel is accepted as it is.

        One user is idle, so that a restored backup can be told from a reset of all users.
        """
        self.look()
        self.world.panel.use_traffic("carol", 1)
        self.look()
        if not self.world.panel.get_user("carol")["used_traffic"]:
            return
        self.database.dump("backup")
        for name, amount in zip(NAMES[:2], used, strict=False):
            self.world.panel.use_traffic(name, amount)
            self.count(name, amount)
        self.look()
        self.world.panel.review()
        self.look()
        self.database.dump("newer")
        self.database.restore("backup")
        self.look()
        self.look()
        if is_put_forward:
            self.database.restore("newer")
        else:
            self.world.attempt(lambda: self.world.bridge.panel_rebase.apply(actor="root"))
        self.look()
        self.look()

    @rule()
    def the_panel_moves_to_whole_seconds(self):
        self.look()
        self.database.cut_seconds()
        self.look()


TestBridgeInvariantsOfALyingPanel = LyingPanelMachine.TestCase
TestBridgeInvariantsOfALyingPanel.settings = settings(MACHINE_SETTINGS, max_examples=examples(10))


class LyingPanelWithoutNotesMachine(LyingPanelMachine):
    """The same where only the values tell."""

    uses_notes = False


TestBridgeInvariantsOfALyingPanelWithoutNotes = LyingPanelWithoutNotesMachine.TestCase
TestBridgeInvariantsOfALyingPanelWithoutNotes.settings = settings(
    MACHINE_SETTINGS, max_examples=examples(10)
)


class RatioMachine(BridgeMachine):
    """The same with a server whose ratio changes, and a feed that is read from its start again."""

    @rule(ratio_millis=st.sampled_from((0, 1, 500, 1000, 2000, 3333)))
    def set_the_ratio(self, ratio_millis):
        self.ratio_millis = self.world.ledger.ratio_millis = ratio_millis

    @rule()
    def read_the_feed_from_its_start(self):
        self.world.bridge.store.usage.forget(ledger_id=self.world.ledger.ledger_id)
        self.look()


TestBridgeInvariantsWithRatios = RatioMachine.TestCase
TestBridgeInvariantsWithRatios.settings = MACHINE_SETTINGS


class PasarGuardMachine(BridgeMachine):
    """The same on a panel that says when users are edited and reset, and rounds in its dialog."""

    kind = "pasarguard"

    @rule(amount=st.sampled_from((gib(1), gib(5))))
    def limits_change_in_bulk(self, amount):
        self.look()
        change_limits(self.world.panel, amount)
        for books in self.books.values():
            books.quota_bytes += amount
        self.look()


class PasarGuardMachineWithoutNotes(PasarGuardMachine):
    """What the times of edits bring it through alone."""

    uses_notes = False


TestPasarGuardInvariants = PasarGuardMachine.TestCase
TestPasarGuardInvariants.settings = MACHINE_SETTINGS
TestPasarGuardInvariantsWithoutNotes = PasarGuardMachineWithoutNotes.TestCase
TestPasarGuardInvariantsWithoutNotes.settings = MACHINE_SETTINGS
