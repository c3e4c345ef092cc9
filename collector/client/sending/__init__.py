"""The senders: threads and tasks, their backoff, forks and the program's exit."""
