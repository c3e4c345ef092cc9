"""The relay: posts of senders that never try again, kept on disk and passed on."""
