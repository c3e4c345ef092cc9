"""Reconciles one user: read, evaluate, write, reset."""
