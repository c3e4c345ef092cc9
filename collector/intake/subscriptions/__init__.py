"""Resolves the subscription tokens of users without a key, by asking the panels."""
