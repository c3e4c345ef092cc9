"""Who calls the bridge's API, and how often they may try."""
