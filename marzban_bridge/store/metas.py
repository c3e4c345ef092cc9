"""Under which keys the store keeps facts about whole panels."""

PANEL_ADDRESS = "panel_address:"
"""Prefix of a panel's name: a digest of its last address."""
PANEL_USERS = "panel_users:"
"""Prefix of a panel's name: digests of its newest users, for finding twin panels."""
APART = "panels_apart:"
"""Prefix of two panels' names, in order: the operator stated that they are two panels."""
OTHER_BRIDGE = "other_bridge:"
"""Prefix of a panel's name: the second bridge that was found on it."""
PANEL_IS = "panel_is:"
"""Before a panel's name: which kind and version it last said it is."""
PASS_POSITION = "pass_position"  # noqa: S105 - the pass is one over all users
"""Key for the first panel, prefix with a colon for others: the last user of the running pass."""
