"""Resets of a user: seen in the panel, asked of the bridge, and their webhooks; pure."""
