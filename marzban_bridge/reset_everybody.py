"""Resets all users of all panels, each once, also where they share quotas."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from marzban_bridge.api.context import Bridges
from marzban_bridge.errors import BridgeError
from marzban_bridge.quota.account import Account


async def reset_everybody(
    bridges: Bridges, *, actor: str, changes_panel: bool = False
) -> Mapping[str, int | BridgeError]:
    """Reset the users of the bridge's own admin on every panel, through the panel's own call.

    Returns, by panel, how many had accounts, or why that panel's were not reset; a panel that fails
    keeps none of the others from it. All requests are stored before the first panel is called: else
    a user who shares a quota would be reset because the one on another panel was, and then once
    more with all. Raises StandingStillError and ReleasedError.
    """
    results: dict[str, int | BridgeError] = {}
    requested: dict[str, list[Account]] = {}
    with ExitStack() as stack:
        for bridge in bridges.by_name.values():
            stack.enter_context(bridge.actions.resetting_all())
        for name, bridge in bridges.by_name.items():
            try:
                caller = await bridge.actions.own_admin(changes_panel=changes_panel)
                requested[name] = await bridge.actions.request_reset_all(
                    bearer=None, caller=caller, actor=actor
                )
            except BridgeError as error:
                results[name] = error
        for name, accounts in requested.items():
            actions = bridges.by_name[name].actions
            try:
                await actions.call_reset_all(accounts, bearer=None, actor=actor)
                results[name] = len(accounts)
            except BridgeError as error:
                results[name] = error
    for name, accounts in requested.items():
        bridges.by_name[name].actions.hurry(accounts)
    return results


def first_failure(results: Mapping[str, int | BridgeError]) -> BridgeError | None:
    """Return why the first panel that failed did; None where none did."""
    return next((each for each in results.values() if isinstance(each, BridgeError)), None)
