"""Brings every user of a panel to where it should be: passes, the work queue, actions."""
