"""What a user may use: accounts, resets, plans of what to change; pure."""
