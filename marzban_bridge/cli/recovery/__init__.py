"""`marzban-bridge release`, `rebase` and `rebuild`: before an uninstall and after a restore."""
