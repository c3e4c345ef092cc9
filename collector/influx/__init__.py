"""InfluxDB: the encoding of points, the outcome of writes, and the buckets.

`lines` encodes points, `client` makes requests, `outcome` decides what an answer means, `delivery`
isolates refused lines, `exporter` copies the ledger: `pages` are read, and several are written at a
time (`window`). `buckets` and `tokens` prepare an InfluxDB 2.x through the `official` client,
`storage_watch` keeps it so. `kinds` says in what InfluxDB 3 and VictoriaMetrics differ, `victoria`
checks the latter's flags. The bridge writes its own points with the same modules.
"""
