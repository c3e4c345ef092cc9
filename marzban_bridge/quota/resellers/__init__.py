"""Decides on quotas of resellers: what is used of one, when its period begins, what is told."""
