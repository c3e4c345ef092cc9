"""Report traffic from a Python program; each byte counts once, despite restarts and outages.

`Client` is for blocking programs, `AsyncClient` for asyncio; their methods are the same. With a
spool, `queue` returns as soon as a report is on disk, and a background thread or task delivers it.
Without a spool, `send` delivers before it returns.

Example:
    >>> with Client("https://traffic.example.com", key="rk_...", spool="spool.sqlite3") as client:
    ...     client.queue(Report(user="alice", server="de-1", upload_bytes=1, download_bytes=2))
    ['8f0e...']

Reading order: `report` (what is reported), `spool` (reports on disk until the collector has taken
them), `answers` (what an HTTP answer means), `sending` (the attempts, and the tasks that make
them), `blocking` and `asynchronous` (the two public classes).
"""

from __future__ import annotations

from collector.client.asynchronous import AsyncClient
from collector.client.blocking import Client
from collector.client.delivery_errors import (
    DeliveryError,
    NotDeliveredError,
    RejectedError,
    UnauthorizedError,
)
from collector.client.errors import (
    ClientError,
    FailureKind,
    ReportError,
    SpoolError,
    SpoolFullError,
)
from collector.client.outbox import Backlog, DeadLetter
from collector.client.receipt import Receipt, Rejected
from collector.client.report import Report

__all__ = [
    "AsyncClient",
    "Backlog",
    "Client",
    "ClientError",
    "DeadLetter",
    "DeliveryError",
    "FailureKind",
    "NotDeliveredError",
    "Receipt",
    "Rejected",
    "RejectedError",
    "Report",
    "ReportError",
    "SpoolError",
    "SpoolFullError",
    "UnauthorizedError",
]
