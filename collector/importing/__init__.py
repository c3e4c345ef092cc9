"""Imports what another program has counted: rows of a table or a CSV, each once.

A file states sums: per user, server, port and day, or per report id if rows have one. Only the part
of a sum that was not imported before is counted; so a file may be imported again, also after it has
grown.
"""
