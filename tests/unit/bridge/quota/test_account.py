"""The arithmetic of a quota."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marzban_bridge.panels.names import account_key
from marzban_bridge.quota.account import FLOOR_BYTES, GIB, MIB, Enforcement, is_same_limit
from marzban_bridge.quota.balance import balance, desired
from marzban_bridge.quota.writes.own_writes import may_be_typed
from tests.support.bridge.bridge_builders import account, gib, panel_user

BYTES = st.integers(min_value=0, max_value=2**50)


def test_external_usage_is_the_total_less_the_baseline():
    held = account(panel_user(used_bytes=gib(4)), baseline_bytes=gib(100))
    found = balance(held, total_bytes=gib(107))
    assert found.external_bytes == gib(7)
    assert found.used_bytes == gib(11)
    assert found.left_bytes == -gib(1)
    assert found.is_exhausted


def test_an_unlimited_quota_is_never_exhausted_and_has_no_limit_to_publish():
    unlimited = account(quota_bytes=None)
    target = desired(unlimited, total_bytes=gib(1000), enforcement=Enforcement.LIMIT)
    assert (target.data_limit_bytes, target.is_disabled) == (None, False)
    assert target.balance.left_bytes is None


@pytest.mark.parametrize(
    ("quota", "used", "external", "limit", "is_disabled"),
    [
        (gib(10), gib(4), 0, gib(10), False),  # nothing external: the quota itself
        (gib(10), gib(4), gib(5), gib(5), False),  # what is left for the panel, plus its own use
        (gib(10), gib(4), gib(6), gib(4), False),  # exactly used up: the panel's `used >= limit`
        (gib(10), gib(4), gib(7), gib(3), False),  # overrun: the panel can still cut off
        (gib(10), gib(4), gib(11), FLOOR_BYTES, False),  # never zero or less, which is unlimited
        (gib(10), 0, gib(10), FLOOR_BYTES, True),  # no panel traffic: no limit can cut off
        (gib(10), FLOOR_BYTES - 1, gib(10), FLOOR_BYTES, True),  # one byte short of the floor
        (gib(10), FLOOR_BYTES, gib(10), FLOOR_BYTES, False),  # on the floor the panel cuts off
        (gib(10), 0, gib(10) - 1, FLOOR_BYTES, False),  # one byte left
        (500_000, 0, 0, 500_000, False),  # a quota below the floor is not raised to it
        (500_000, 0, 500_000, 500_000, True),
    ],
)
def test_limit_mode_publishes_what_the_quota_leaves(quota, used, external, limit, is_disabled):
    held = account(panel_user(used_bytes=used), quota_bytes=quota)
    target = desired(held, total_bytes=external, enforcement=Enforcement.LIMIT)
    assert (target.data_limit_bytes, target.is_disabled) == (limit, is_disabled)


@pytest.mark.parametrize(
    ("used", "external", "is_disabled"),
    [
        (gib(4), gib(5), False),
        (gib(4), gib(6), True),
        (gib(10), gib(6), False),  # the panel limits this one by itself
        (0, gib(10), True),
    ],
)
def test_disable_mode_leaves_the_limit_alone(used, external, is_disabled):
    held = account(panel_user(used_bytes=used))
    target = desired(held, total_bytes=external, enforcement=Enforcement.DISABLE)
    assert (target.data_limit_bytes, target.is_disabled) == (gib(10), is_disabled)


@given(quota=st.integers(min_value=1, max_value=2**50), used=BYTES, external=BYTES)
def test_a_used_up_quota_is_always_cut_off_and_an_open_one_never(quota, used, external):
    """The panel's own rule and our disabling together hold exactly the quota."""
    held = account(panel_user(used_bytes=used), quota_bytes=quota)
    target = desired(held, total_bytes=external, enforcement=Enforcement.LIMIT)
    assert target.data_limit_bytes is not None
    assert 0 < target.data_limit_bytes <= quota
    is_cut_off = used >= target.data_limit_bytes or target.is_disabled
    assert is_cut_off == (used + external >= quota)


def test_an_account_is_called_as_the_panel_spells_it():
    assert account_key("Alice") == "Alice" != account_key("alice")
    assert account_key("Zoe\u0301") == account_key("Zo\u00e9")


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (None, None, True),
        (None, 5, False),
        (gib(3), None, False),
        (gib(3), gib(3) + 16 * 1024, True),
        (gib(3), gib(3) - 16 * 1024, True),
        (gib(3), gib(3) + 16 * 1024 + 1, False),
    ],
)
def test_limits_within_the_dialogs_rounding_are_the_same(one, other, is_same):
    assert is_same_limit(one, other) is is_same


@given(limit=st.integers(min_value=1, max_value=2**50))
def test_the_edit_dialogs_rounding_never_looks_like_an_edit(limit):
    """The dialog shows GiB with five decimals and sends that back."""
    assert is_same_limit(limit, int(round(limit / GIB, 5) * GIB))


@pytest.mark.parametrize(
    ("limit", "is_typed"),
    [(gib(5), True), (gib(0.5), True), (int(2.25 * GIB), True), (gib(3) - 7 * MIB, False)],
)
def test_people_type_hundredths_of_a_gib(limit, is_typed):
    assert may_be_typed(limit) is is_typed
