"""`marzban-bridge resellers`: quotas of admins for all of their users together."""
