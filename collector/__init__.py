"""External traffic reports in, exact totals out."""
