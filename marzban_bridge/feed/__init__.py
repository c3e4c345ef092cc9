"""The collector's change feed: reading it, and which ledger it comes from."""
