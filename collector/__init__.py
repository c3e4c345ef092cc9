"""Accepts traffic reports and keeps exact, durable totals per user.

Reading order follows a report: `api` (the routes), `reports` (what a report is, who may report for
whom), `intake` (reports are queued and committed in groups), `ledger` (what is stored), `influx`
(the export of time series), `service` (the wired parts), `app` (the application).
"""

__version__ = "0.2.0"
