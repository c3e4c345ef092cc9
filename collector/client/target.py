"""Where reports go and who sends them: the one place that looks at a client's arguments."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

from collector.client.delivery_errors import NotDeliveredError
from collector.client.errors import ClientError, ReportError
from collector.client.outbox import Item, MemoryOutbox
from collector.client.report import Report, encode
from collector.client.sending.delivery import (
    DEFAULT_BATCH_REPORTS,
    MOST_REPORTS,
    MOST_REPORTS_WITHOUT_KEY,
    Reports,
)

MAX_ANSWER_BYTES = 16 * 2**20
IDLE_SECONDS = 5.0
"""How often an idle sender looks whether another process queued something."""
OTHERS_SECONDS = 0.05
"""How often a flush looks whether other processes have sent what they took."""
LINGER_SECONDS = 0.1
"""So long a sender that was idle lets reports gather."""


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
        subscription = self.subscription
        if subscription is not None and subscription.startswith("/"):
            # Marzban shows links without a host unless it is told one; only the token in it counts.
            subscription = join(self.url, subscription)
        return Reports(self.key, subscription, min(most, self.batch_reports))

    def encoded(self, reports: Sequence[Report]) -> list[tuple[str, bytes]]:
        """Return reports as id and body, with an id for each; ReportError if one has no owner."""
        return [self._encoded(each) for each in reports]

    def _encoded(self, report: Report) -> tuple[str, bytes]:
        if self.subscription is None and report.user is None:
            raise ReportError("user: a reporter key reports for named users; say whose this is")
        if self.subscription is not None and report.user is not None:
            raise ReportError("user: a subscription reports for its own user; leave the name out")
        return report.report_id, encode(report, report_id=report.report_id)

    def outbox(self, reports: Sequence[Report]) -> MemoryOutbox:
        """Return an outbox that holds reports for the length of a call."""
        now_millis = time.time_ns() // 1_000_000
        return MemoryOutbox(
            [
                Item(number, report_id, body, now_millis)
                for number, (report_id, body) in enumerate(self.encoded(reports))
            ]
        )


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
    try:
        parts.host.encode("idna")
    except UnicodeError:
        raise ClientError(f"the host name of the URL is not one: {parts.host[:80]!r}") from None
    if parts.userinfo or parts.query or parts.fragment:
        raise ClientError("the URL is to have no password, query or fragment in it")


def undelivered(
    reports: Sequence[Report], outbox: MemoryOutbox, why: ClientError
) -> NotDeliveredError:
    """Return the error of a call that gave up, with those of its reports that are left."""
    left_ids = {each.item_id for each in outbox.items}
    left = [each for each in reports if each.report_id in left_ids]
    rejected = len(outbox.rejected)
    also = f"; {rejected} others were rejected" if rejected else ""
    return NotDeliveredError(
        f"{len(left)} reports were not taken: {why}{also}", left, kind=why.kind, status=why.status
    )
