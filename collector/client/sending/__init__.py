"""Who sends what waits: threads and tasks, their pace, forks and the end of a program."""
