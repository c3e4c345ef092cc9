"""What the agent remembers of its sources, and how counters become traffic."""
