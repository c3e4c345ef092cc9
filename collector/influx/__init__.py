"""InfluxDB: the encoding of points, the outcome of writes, and the buckets.

`lines` encodes points, `client` makes requests, `outcome` decides what an answer means, `delivery`
isolates refused lines, `exporter` copies the ledger, `buckets` and `tokens` prepare an InfluxDB
through the `official` client. The bridge writes its own points with the same modules.
"""
