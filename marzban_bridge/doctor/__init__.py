"""`marzban-bridge doctor`: checks everything the bridge depends on, and says what to do."""
