"""The simulated panel's HTTP interface and its webhooks."""
