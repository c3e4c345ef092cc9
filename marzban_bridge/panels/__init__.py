"""Panels: the port, Marzban behind it, and how each is asked without harm."""
