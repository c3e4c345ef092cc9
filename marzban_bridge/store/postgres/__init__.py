"""The store in PostgreSQL: a replica in memory, the lease, leadership."""
