"""Sources that are streams: the requests to Redis, the messages read, the traffic of a page."""
