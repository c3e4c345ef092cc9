"""The agent's state: baselines of counters, and how differences become traffic."""
