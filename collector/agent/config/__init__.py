"""The agent's configuration file, decoded into values."""
