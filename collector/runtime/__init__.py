"""What every program stands on: servers, files, clocks, PostgreSQL; knows no traffic or quota."""
