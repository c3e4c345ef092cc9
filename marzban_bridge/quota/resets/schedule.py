"""How late the panel's periodic reset of a user may be, by its own job; pure."""

from __future__ import annotations

from datetime import timedelta

PERIODIC_JOB_INTERVAL = timedelta(hours=1)
CALENDAR_GRACE = PERIODIC_JOB_INTERVAL + timedelta(minutes=5)
"""After the moment at which a reset falls due (`Account.reset_due_at`) it may take so long."""
