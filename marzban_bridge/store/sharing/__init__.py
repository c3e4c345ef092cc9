"""Quotas that users of one name on several panels share."""
