"""What tests of the agent share: its process, and the servers whose counters it reads."""
