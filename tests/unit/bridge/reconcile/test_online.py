"""How many users the panel saw online during a pass."""

from __future__ import annotations

from datetime import timedelta

from marzban_bridge.reconcile.users.online import ONLINE_FOR, OnlineUsers
from tests.support.bridge.bridge_builders import NOW, panel_user

SECOND = timedelta(seconds=1)


def test_those_count_whom_the_panel_saw_lately():
    online = OnlineUsers()
    online.add([panel_user(online_at=NOW), None, panel_user(online_at=None)], now=NOW)
    online.add(
        [
            panel_user(online_at=NOW - ONLINE_FOR + SECOND),
            panel_user(online_at=NOW - ONLINE_FOR),
            panel_user(online_at=NOW + SECOND),  # its clock is ahead
        ],
        now=NOW,
    )
    assert online.take() == 3
    assert online.take() == 0
