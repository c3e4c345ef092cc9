"""Our dashboards and alert rules as tests read them."""
