"""InfluxDB: how points are spelt, what a write came to, and the buckets they go to.

`lines` and `outcome` decide, `client` talks, `delivery` isolates refused lines, `buckets` and
`tokens` prepare an InfluxDB through the `official` client. The bridge writes its own points with
the same modules.
"""
