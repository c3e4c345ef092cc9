"""External traffic reports in, exact and durable totals out.

Reading order is the flow of the data: `bodies` and `reports` (what is accepted), `reporters` and
`identity` (who may report for whom), `ingest` and `ledger` (stored in one commit), `api` (the
routes), `app` (the wiring).
"""

__version__ = "0.1.0"
