"""Which limit and status in the panel is the bridge's own: open writes and note lines; pure."""
