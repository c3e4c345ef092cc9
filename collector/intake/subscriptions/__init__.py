"""Users who report for themselves: panels say which user a subscription token belongs to."""
