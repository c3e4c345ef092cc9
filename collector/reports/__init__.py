"""What a report is, who may report, within which bounds, and what it is billed; pure."""
