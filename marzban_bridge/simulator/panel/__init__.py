"""The simulated panel itself: its users, rules and jobs, without a network."""
