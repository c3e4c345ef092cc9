"""Assigns reported names to accounts, and from which total on their bytes are charged."""
