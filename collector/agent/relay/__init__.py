"""The relay: stores posts of senders that never retry, and forwards them to the collector."""
