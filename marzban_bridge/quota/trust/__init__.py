"""Decides whether a panel is suspended, and what accepting it as it is changes; pure."""
