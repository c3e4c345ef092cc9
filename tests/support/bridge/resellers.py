"""What tests of resellers' quotas do to a world: set a quota, use traffic, move a user."""

from __future__ import annotations

from typing import Any

from marzban_bridge.quota.resellers.reseller import Reseller, ResellerChange
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.world import World


def add_resellers(world: World, *names: str) -> None:
    """Add admins who are not sudo."""
    for name in names:
        world.panel.add_admin(name, password=f"the-password-of-{name}")


def set_quota(world: World, admin: str, quota: float | None = None, **fields: Any) -> Reseller:
    """Set an admin's quota in GiB, as its command does, and make a pass."""
    quota_bytes = None if quota is None else gib(quota)
    change = ResellerChange(quota_bytes=quota_bytes, **fields)
    reseller = world.run(world.bridge.resellers.set(admin, change, actor="test"))
    world.one_pass()
    return reseller


def use(world: World, username: str, *, panel: float = 0, external: float = 0) -> None:
    """Let a user use traffic, in GiB, on the panel's node and elsewhere; make a pass."""
    if panel:
        assert world.panel.use_traffic(username, gib(panel)), f"{username} is cut off"
    if external:
        world.ledger.report(username, gib(external))
    world.one_pass()


def move(world: World, username: str, admin: str) -> None:
    """Give a user to another admin, as the panel does for a sudo admin."""
    world.panel.find(username).owner = admin


def used(world: World, admin: str) -> float:
    """Return what is used of an admin's quota, in GiB."""
    reseller = world.bridge.store.resellers.get(admin)
    assert reseller is not None
    return reseller.used_bytes / gib(1)


def status(world: World, username: str) -> str:
    return str(world.panel.get_user(username)["status"])


def kinds(world: World) -> list[str]:
    """Return the kinds of all events, oldest first."""
    events = reversed(world.bridge.store.events.newest(limit=1000))
    return [each.event.kind for each in events]
