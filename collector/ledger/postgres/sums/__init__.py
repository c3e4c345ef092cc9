"""Numbering and adding up: one sequence of numbers, sums in independent partitions."""
