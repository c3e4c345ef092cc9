"""Whose a reported name is, and from which total on it counts."""
