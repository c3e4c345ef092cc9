"""The collector's URL and the sender's secret: checks the arguments of a client."""

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
"""How often an idle sender checks whether another process queued something."""
OTHERS_SECONDS = 0.05
"""How often a flush checks whether other processes have sent what they claimed."""
LINGER_SECONDS = 0.1
"""How long a sender that was idle waits for more reports, to send them in one request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A collector's URL and the sender's key or subscription; ClientError for invalid ones."""

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
            raise ClientError(
                "the key or subscription is not valid: it is empty or has characters that none has"
            )
        if not 1 <= self.batch_reports <= MOST_REPORTS:
            raise ClientError(f"batch_reports: expected a number from 1 to {MOST_REPORTS}")

    def parcel(self) -> Reports:
        """Return the parcel that packs reports into requests of this target."""
        most = MOST_REPORTS if self.key is not None else MOST_REPORTS_WITHOUT_KEY
        subscription = self.subscription
        if subscription is not None and subscription.startswith("/"):
            # Marzban shows links without a host unless one is configured; only the token is used.
            subscription = join(self.url, subscription)
        return Reports(self.key, subscription, min(most, self.batch_reports))

    def encoded(self, reports: Sequence[Report]) -> list[tuple[str, bytes]]:
        """Return each report as id and body; ReportError if its user is missing or superfluous."""
        return [self._encoded(each) for each in reports]

    def _encoded(self, report: Report) -> tuple[str, bytes]:
        if self.subscription is None and report.user is None:
            raise ReportError("user: required, since a reporter key may report for all users")
        if self.subscription is not None and report.user is not None:
            raise ReportError("user: leave it out, since a subscription reports for its own user")
        return report.report_id, encode(report, report_id=report.report_id)

    def outbox(self, reports: Sequence[Report]) -> MemoryOutbox:
        """Return an outbox in memory that holds these reports."""
        now_millis = time.time_ns() // 1_000_000
        return MemoryOutbox(
            [
                Item(number, report_id, body, now_millis)
                for number, (report_id, body) in enumerate(self.encoded(reports))
            ]
        )


def join(url: str, path: str) -> str:
    """Return the URL of a path of the collector."""
    return url.rstrip("/") + path


def check_url(url: str) -> None:
    """Raise ClientError unless this is an http(s) URL without password, query or fragment."""
    try:
        parts = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise ClientError("expected a URL such as https://traffic.example.com") from None
    if parts.scheme not in {"http", "https"} or not parts.host:
        raise ClientError("expected a URL such as https://traffic.example.com")
    try:
        parts.host.encode("idna")
    except UnicodeError:
        raise ClientError(f"the URL has no valid host name: {parts.host[:80]!r}") from None
    if parts.userinfo or parts.query or parts.fragment:
        raise ClientError("the URL must have no password, query or fragment")


def undelivered(
    reports: Sequence[Report], outbox: MemoryOutbox, why: ClientError
) -> NotDeliveredError:
    """Return the error of a call that gave up, with the reports that were not accepted."""
    left_ids = {each.item_id for each in outbox.items}
    left = [each for each in reports if each.report_id in left_ids]
    rejected = len(outbox.rejected)
    also = f"; {rejected} others were rejected" if rejected else ""
    return NotDeliveredError(
        f"{len(left)} reports were not accepted: {why}{also}",
        left,
        kind=why.kind,
        status=why.status,
    )
