"""The ledger in one SQLite file: appending, adding up, reading, backups."""
