"""`marzban-bridge doctor`: asks everything that the bridge stands on, and says what to do."""
