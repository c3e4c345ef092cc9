"""Keeps the resellers' quotas, and what their users have used of them."""
