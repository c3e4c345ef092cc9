"""How many webhooks of resets that are counted already are still to come."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from marzban_bridge.quota.resets.echoes import ECHO_WINDOW, echoes_to_come, expecting
from tests.support.bridge.bridge_builders import NOW, account

SOON, LATER = NOW + timedelta(minutes=1), NOW + timedelta(minutes=2)
UNTIL = NOW + ECHO_WINDOW


@pytest.mark.parametrize(
    ("expected", "more", "heard", "to_come"),
    [
        ((), 0, 0, ()),
        ((), 1, 0, (UNTIL,)),
        ((), 1, 1, ()),
        ((), 0, 2, ()),
        ((LATER,), 0, 0, (LATER,)),
        ((LATER,), 1, 0, (LATER, UNTIL)),
        ((LATER,), 1, 1, (UNTIL,)),
        ((LATER,), 1, 2, ()),
        ((SOON, LATER), 0, 1, (LATER,)),
        ((SOON, LATER), 1, 0, (SOON, LATER, UNTIL)),
        ((NOW, LATER), 0, 0, (LATER,)),
        ((NOW, LATER), 0, 1, ()),
    ],
)
def test_each_reset_adds_an_echo_and_each_webhook_takes_the_one_that_ends_first(
    expected, more, heard, to_come
):
    held = account()
    if expected:
        held = replace(held, earlier_echoes_until=expected[:-1], echo_until=expected[-1])
    after = expecting(held, more=more, heard=heard, at=NOW)
    assert echoes_to_come(after, at=NOW) == to_come


def test_an_account_of_an_earlier_version_has_one_echo():
    assert echoes_to_come(replace(account(), echo_until=LATER), at=NOW) == (LATER,)
    assert echoes_to_come(replace(account(), echo_until=LATER), at=LATER) == ()
