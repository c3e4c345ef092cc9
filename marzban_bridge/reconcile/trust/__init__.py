"""Whether the data of a panel, a store or the ledger is trusted; if not, no user is changed."""
