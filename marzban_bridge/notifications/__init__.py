"""Where Grafana sends the notifications of alerts: settings, the files it reads, test messages."""
