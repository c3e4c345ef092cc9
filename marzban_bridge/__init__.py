"""Sums external usage per panel user and enforces it through Marzban."""
