"""Connections to a panel are kept between requests, however many are under way at once."""

from __future__ import annotations

import pytest

from marzban_bridge.panels.rest_panel import RestPanel
from marzban_bridge.panels.write_guard import WriteGuard
from marzban_bridge.reconcile.users.concurrency import MOST_USERS
from marzban_bridge.store.postgres.lease import Lease


@pytest.mark.parametrize("is_guarded", [False, True])
async def test_as_many_connections_are_kept_as_requests_are_under_way(is_guarded):
    """Twenty were: of 32 writes twelve opened one, which is three round trips with TLS.

    What a server counts would depend on the clock, since unused ones are closed after 5 s.
    """
    guard = WriteGuard(Lease()) if is_guarded else None
    panel = RestPanel("http://panel", username="root", password="", guard=guard)
    pool = panel._client._transport._pool
    lists = 3
    assert pool._max_keepalive_connections >= MOST_USERS + lists + 1
    assert pool._max_connections > pool._max_keepalive_connections
    await panel.close()
