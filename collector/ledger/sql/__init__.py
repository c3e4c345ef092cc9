"""Queries and administration of a ledger, in SQL that SQLite and PostgreSQL share."""
