"""Resets all users of all panels, each once, also where they share quotas."""

from __future__ import annotations

from collections.abc import Mapping

from marzban_bridge.accounts import Account
from marzban_bridge.api.context import Bridges
from marzban_bridge.errors import BridgeError


async def reset_everybody(
    bridges: Bridges, *, actor: str, changes_panel: bool = False
) -> Mapping[str, int | BridgeError]:
    """Reset the users of the bridge's own admin on every panel, through the panel's own call.

    Returns, by panel, how many had accounts, or why that panel's were not reset; a panel that fails
    keeps none of the others from it. Where quotas are shared the loops stand still meanwhile, and
    all requests are stored before the first panel is called: else a panel's users would be reset
    because another panel's were, and then once more with all. Raises StandingStillError and
    ReleasedError.
    """
    if not bridges.first.store.shares_quotas:
        return {
            name: await _alone(bridges, name, actor=actor, changes_panel=changes_panel)
            for name in bridges.by_name
        }
    bridges.standstill.refuse_if_released()
    results: dict[str, int | BridgeError] = {}
    requested: dict[str, list[Account]] = {}
    async with bridges.standstill.hold("a reset of all users"):
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
                results[name] = await actions.call_reset_all(accounts, bearer=None, actor=actor)
            except BridgeError as error:
                results[name] = error
    return results


async def _alone(
    bridges: Bridges, name: str, *, actor: str, changes_panel: bool
) -> int | BridgeError:
    bridge = bridges.by_name[name]
    try:
        caller = await bridge.panel.whoami()
        return await bridge.actions.reset_all(
            bearer=None, caller=caller, actor=actor, changes_panel=changes_panel
        )
    except BridgeError as error:
        return error


def first_failure(results: Mapping[str, int | BridgeError]) -> BridgeError | None:
    """Return why the first panel that failed did; None where none did."""
    return next((each for each in results.values() if isinstance(each, BridgeError)), None)
