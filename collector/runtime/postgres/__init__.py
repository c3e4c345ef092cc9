"""Connections to PostgreSQL: bounded answers, session settings, one link, a fenced lease."""
