"""One pure module per kind of source: its configuration keys, and the decoding of its answer."""
