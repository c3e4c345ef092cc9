"""One user: read, evaluated, written to, reset."""
