"""Whether two readings of `created_at` are of one user, on whichever database the panel is."""

from __future__ import annotations

from datetime import timedelta

import pytest

from marzban_bridge.panels.dialect import MARZBAN
from marzban_bridge.panels.users import is_same_creation
from marzban_bridge.quota.observe import observe
from tests.support.bridge.bridge_builders import CREATED_AT, account, as_reported, gib, panel_user

PRECISE = CREATED_AT.replace(microsecond=700_123)
CUT = CREATED_AT
ROUNDED = CREATED_AT + timedelta(seconds=1)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (None, None, True),
        (None, CUT, False),
        (CUT, CUT, True),
        (PRECISE, CUT, True),
        (PRECISE, ROUNDED, True),
        (PRECISE.replace(microsecond=300_000), ROUNDED, False),
        (PRECISE, CUT - timedelta(seconds=1), False),
        (PRECISE, ROUNDED + timedelta(seconds=1), False),
        (CUT, ROUNDED, False),
        (PRECISE, PRECISE.replace(microsecond=700_124), False),
    ],
)
def test_whole_seconds_are_those_of_a_moment_cut_off_or_rounded(one, other, is_same):
    assert is_same_creation(one, other) is is_same
    assert is_same_creation(other, one) is is_same


def test_the_account_takes_over_what_the_panel_shows_now_and_says_nothing():
    before = account(panel_user(created_at=PRECISE), quota_bytes=gib(10), seen_total_bytes=5)
    seen = observe(
        before,
        panel_user(created_at=CUT),
        totals=as_reported(5),
        now=before.sighting.seen_at + timedelta(seconds=9),
        dialect=MARZBAN,
    )
    assert seen.events == ()
    assert seen.account.created_at == CUT
    assert seen.account.quota_bytes == gib(10)
