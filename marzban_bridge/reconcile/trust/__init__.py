"""Whether what a panel and the ledger show may be acted on."""
