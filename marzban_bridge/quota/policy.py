"""Which planned changes may be carried out: a filter between plan and apply."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from marzban_bridge.quota.account import Enforcement
from marzban_bridge.quota.plan import Change

Policy = Callable[[Change], bool]
"""Tells whether a planned change may be carried out."""


def allow_all(change: Change) -> bool:  # noqa: ARG001 - the signature is the policy's
    """Carry out every planned change."""
    return True


def deny_all(change: Change) -> bool:  # noqa: ARG001 - the signature is the policy's
    """Carry out nothing: plan and show only."""
    return False


POLICIES: Mapping[Enforcement, Policy] = {
    Enforcement.LIMIT: allow_all,
    Enforcement.DISABLE: allow_all,
    Enforcement.OBSERVE: deny_all,
}
