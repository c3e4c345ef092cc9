"""What the soak and the torture of senders are made of: load, accidents, and the balance."""
