"""From accepted reports to the ledger: group commit, the leader's work, corrections, push ids."""
