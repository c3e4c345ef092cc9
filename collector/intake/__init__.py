"""From accepted reports to the ledger: group commit, the shared leader, corrections, push ids."""
