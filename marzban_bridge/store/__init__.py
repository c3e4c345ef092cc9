"""The bridge's store: accounts, usage, events, and which account each reported name belongs to."""
