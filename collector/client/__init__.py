"""Report traffic from a Python program: each byte counted once, through restarts and outages.

`Client` and `AsyncClient` have the same methods. With a spool, `queue` returns as soon as a report
is on disk and a background sender delivers it; without one, `send` delivers before it returns.
Reading order: `report` (what is reported), `spool` (kept until it is taken), `answers` (what an
answer means), `delivery` (one attempt after the other), `sender` (what sends, in an event loop),
`blocking` and `asynchronous` (the two shells around it).
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
