"""Where reports go and who sends them: the one place that looks at a client's arguments."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx

from collector.client.delivery import (
    DEFAULT_BATCH_REPORTS,
    MOST_REPORTS,
    MOST_REPORTS_WITHOUT_KEY,
    Reports,
)
from collector.client.errors import ClientError, NotDeliveredError, ReportError
from collector.client.outbox import Item, MemoryOutbox, SetAside
from collector.client.report import Report, decode, encode

MAX_ANSWER_BYTES = 16 * 2**20
IDLE_SECONDS = 5.0
"""How often an idle sender looks whether another process queued something."""
LINGER_SECONDS = 0.1
"""So long a sender that was idle lets reports gather."""
DEFAULT_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A collector and the secret it knows the sender by; ClientError for what cannot be right."""

    url: str
    key: str | None = field(default=None, repr=False)
    subscription: str | None = field(default=None, repr=False)
    batch_reports: int = DEFAULT_BATCH_REPORTS

    def __post_init__(self) -> None:
        check_url(self.url)
        if (self.key is None) == (self.subscription is None):
            raise ClientError("give either a reporter key or a subscription, not both")
        secret = self.key or self.subscription or ""
        if not secret or not secret.isascii() or not secret.isprintable() or " " in secret:
            raise ClientError("the key or subscription is not one: it has odd characters, or none")
        if not 1 <= self.batch_reports <= MOST_REPORTS:
            raise ClientError(f"batch_reports: expected a number from 1 to {MOST_REPORTS}")

    def parcel(self) -> Reports:
        """Return how reports become requests."""
        most = MOST_REPORTS if self.key is not None else MOST_REPORTS_WITHOUT_KEY
        return Reports(self.key, self.subscription, min(most, self.batch_reports))

    def encoded(self, reports: Sequence[Report]) -> list[tuple[str, bytes]]:
        """Return reports as id and body, with an id for each; ReportError if one has no owner."""
        return [self._encoded(each) for each in reports]

    def _encoded(self, report: Report) -> tuple[str, bytes]:
        if self.subscription is None and report.user is None:
            raise ReportError("user: a reporter key reports for named users; say whose this is")
        if self.subscription is not None and report.user is not None:
            raise ReportError("user: a subscription reports for its own user; leave the name out")
        report_id = report.report_id or new_id()
        return report_id, encode(report, report_id=report_id)

    def outbox(self, reports: Sequence[Report]) -> MemoryOutbox:
        """Return an outbox that holds reports for the length of a call."""
        now_millis = time.time_ns() // 1_000_000
        return MemoryOutbox(
            [
                Item(number, report_id, body, now_millis)
                for number, (report_id, body) in enumerate(self.encoded(reports))
            ]
        )


def new_id() -> str:
    """Return an id nobody else makes."""
    return secrets.token_hex(16)


def join(url: str, path: str) -> str:
    """Return the URL of a path at the collector."""
    return url.rstrip("/") + path


def check_url(url: str) -> None:
    """Raise ClientError unless this is the address of a web server, without a secret in it."""
    try:
        parts = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise ClientError("expected a URL such as https://traffic.example.com") from None
    if parts.scheme not in {"http", "https"} or not parts.host:
        raise ClientError("expected a URL such as https://traffic.example.com")
    if parts.userinfo or parts.query or parts.fragment:
        raise ClientError("the URL is to have no password, query or fragment in it")


def undelivered(outbox: MemoryOutbox, rejected: Sequence[SetAside], why: str) -> NotDeliveredError:
    """Return the error of a call that gave up, with what it was left with."""
    left: list[object] = []
    for each in outbox.items:
        report = decode(each.body)
        if report.reported_at is None and not each.is_undated:
            # Sent again, it must not look like another report.
            moment = datetime.fromtimestamp(each.queued_at_millis / 1000, tz=UTC)
            report = _dated(report, moment)
        left.append(report)
    also = f"; {len(rejected)} others were rejected" if rejected else ""
    return NotDeliveredError(f"{len(left)} reports were not taken: {why}{also}", left)


def _dated(report: Report, moment: datetime) -> Report:
    return Report(
        user=report.user,
        server=report.server,
        port=report.port,
        protocol=report.protocol,
        upload_bytes=report.upload_bytes,
        download_bytes=report.download_bytes,
        connections=report.connections,
        reported_at=moment,
        report_id=report.report_id,
    )
