"""Being connected to a PostgreSQL: bounded answers, session settings, one link, its standby."""
