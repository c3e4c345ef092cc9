"""Moves a ledger from one engine to the other."""
