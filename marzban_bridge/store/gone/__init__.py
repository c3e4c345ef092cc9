"""Accounts of users whom their panel no longer shows."""
