"""Moves a ledger from SQLite to PostgreSQL."""
