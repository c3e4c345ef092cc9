"""Sums external usage per panel user and enforces it through Marzban's REST API.

Reading order: `accounts` and `panel` (the values), `resets`, `observe` and `plan` (the decisions),
`settle` (one user), `reconcile` (the loop), `snapshots` (what dashboards see), `app` (the wiring).
"""

__version__ = "0.2.0"
