"""What is read and administered alike in a ledger of either engine: one SQL text for both."""
