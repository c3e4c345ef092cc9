"""The agent's configuration file: reading it, and the values it becomes."""
