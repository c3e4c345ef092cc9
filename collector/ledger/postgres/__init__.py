"""The ledger in PostgreSQL: appending, numbering, reading, the lease of its leader."""
