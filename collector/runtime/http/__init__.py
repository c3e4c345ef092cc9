"""Serving and asking over HTTP: one server, bounds on connections and bodies, `Retry-After`."""
