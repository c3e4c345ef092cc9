"""The bridge's points: quotas, usage and events in InfluxDB."""
