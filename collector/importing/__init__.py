"""Takes over what another program has counted already: rows of a table or a CSV, each once.

A file states sums: per user, server, port and day, or per report id where rows have one. What it
states beyond what was counted of it before is counted now; so a file may be imported again, also
after it has grown.
"""
