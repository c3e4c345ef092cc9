"""Under which keys the store keeps facts about whole panels."""

PANEL_ADDRESS = "panel_address:"
"""Before a panel's name: a mark of the address that it had last."""
PANEL_USERS = "panel_users:"
"""Before a panel's name: marks of its newest users, while no other entry is the same panel."""
APART = "panels_apart:"
"""Before two panels' names, in order: the operator said that they are two."""
OTHER_BRIDGE = "other_bridge:"
"""Before a panel's name: the bridge with another store that was found on it."""
PANEL_IS = "panel_is:"
"""Before a panel's name: which kind and version it last said it is."""
PASS_POSITION = "pass_position"  # noqa: S105 - the pass is one over all users
"""Alone for the first panel, before a colon and the name of another: where a pass goes on."""
