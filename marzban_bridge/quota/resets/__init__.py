"""Resets of a user: detected in the panel, requested from the bridge, and webhooks; pure."""
