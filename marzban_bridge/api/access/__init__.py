"""Authentication of the API's callers, and rate limits on failed attempts."""
