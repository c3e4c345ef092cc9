"""One pure module per kind of source: its keys in the configuration, and what its answer means."""
