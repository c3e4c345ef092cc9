"""The bridge's store: accounts, usage, events, whose a name is."""
