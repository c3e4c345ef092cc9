"""When a user will have used up its quota: remembered use, and the decision; pure."""
