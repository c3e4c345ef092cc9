"""The bridge's settings and its file of panels."""
