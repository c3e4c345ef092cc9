"""Where Grafana sends the notices of alerts: settings, the files it reads, test messages."""
