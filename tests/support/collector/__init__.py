"""What tests of the collector and its client share: ledgers, processes, and doubles."""
