"""Real engines that tests run on: InfluxDB, PostgreSQL, Prometheus, Redis, PgBouncer."""
