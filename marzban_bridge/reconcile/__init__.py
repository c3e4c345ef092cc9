"""Reconciles the users of a panel with the ledger: passes, the work queue, admins' actions."""
