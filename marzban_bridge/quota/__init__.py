"""Decisions about quotas, from values alone: accounts, resets, plans; no I/O."""
