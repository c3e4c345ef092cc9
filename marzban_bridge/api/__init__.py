"""The bridge's HTTP surface: webhooks from the panel, the admin API, health and metrics."""
