"""`marzban-bridge`: one module for each family of commands."""
