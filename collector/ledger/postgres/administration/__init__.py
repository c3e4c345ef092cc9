"""What is kept beside the reports in a PostgreSQL ledger: corrections, senders, names, purges."""
