"""What is kept beside the reports in an SQLite ledger: corrections, senders, reporters, ratios."""
