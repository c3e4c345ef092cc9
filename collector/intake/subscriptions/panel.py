"""Asks one panel which user a subscription token belongs to.

Marzban 0.8.4 and PasarGuard 5.2.1 answer `GET /{path}/{token}/info` with the user, and 404 for a
bad or revoked token.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime

import httpx

from collector.errors import PanelUnavailableError
from collector.metrics import Metrics
from collector.reports.identity import FIRST_PANEL
from collector.runtime.http.retry_after import retry_after_seconds
from collector.runtime.outage import Outage

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 5.0
"""Timeout of each step of a request: connecting, sending, each part of the answer."""
LONGEST_SECONDS = 10.0
"""Timeout of a whole request."""
LONGEST_ANSWER_BYTES = 2**20
LONGEST_RETRY_AFTER_SECONDS = 60.0
"""The longest pause, also if the panel's `Retry-After` is longer, since users wait to report."""
FAILURE_SHOWN_SECONDS = 600.0
"""How long a failure is shown; a panel that is rarely asked would be shown as failing for days."""


class SubscriptionPanel:
    """One panel, to be asked which user a subscription token belongs to.

    `url` is where its subscription links begin: a token follows behind a slash. The panel called
    `default` has its users called by their names alone, another one's are called `two/alice`.
    """

    def __init__(
        self,
        name: str,
        url: str,
        *,
        monotonic_seconds: Callable[[], float],
        metrics: Metrics,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.name = name
        self._url = url
        self._prefix = "" if name == FIRST_PANEL else f"{name}/"
        self._monotonic_seconds = monotonic_seconds
        self._answers = metrics.panel_answers
        self._client = httpx.AsyncClient(
            timeout=TIMEOUT_SECONDS, transport=transport, follow_redirects=False
        )
        self._resume_at_seconds = 0.0
        self._failed_at_seconds = 0.0
        self._outage = Outage(
            f"panel {name}",
            fails=f"panel {name} cannot be asked about subscription tokens: %s",
            works=f"panel {name} answers about subscription tokens again",
            log=log,
        )

    async def close(self) -> None:
        """Close the connections to the panel."""
        await self._client.aclose()

    @property
    def is_pausing(self) -> bool:
        """Whether the panel's `Retry-After` has not passed yet."""
        return self._monotonic_seconds() < self._resume_at_seconds

    @property
    def is_up(self) -> bool:
        """Whether the last request was answered."""
        return self._outage.is_up

    @property
    def problem(self) -> str | None:
        """Why the last request failed; None if it was answered."""
        shown_until_seconds = self._failed_at_seconds + FAILURE_SHOWN_SECONDS
        if self._outage.is_up or self._monotonic_seconds() > shown_until_seconds:
            return None
        return (
            f"panel {self.name} cannot be asked about subscription tokens: its users cannot "
            f"report for themselves ({self._outage.reason})"
        )

    async def ask(self, token: str) -> str | None:
        """Return the username of a token as in reports; None if the panel does not know the token.

        Raises PanelUnavailableError when the panel cannot be asked, or pauses.
        """
        if self.is_pausing:
            self._answers.labels(panel=self.name, result="unavailable").inc()
            raise PanelUnavailableError(f"panel {self.name} asked to be left alone for a while")
        try:
            status, headers, body = await self._get(token)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise self._failed(f"it does not answer ({type(error).__name__})") from None
        if status in {400, 404, 422}:
            self._outage.recovered()
            self._answers.labels(panel=self.name, result="unknown").inc()
            return None
        username = _username_of(body) if status == 200 else None
        if username is None:
            self._heed(headers.get("retry-after"))
            raise self._failed(
                f"it answers {status} for a subscription token; is {_setting_of(self.name)}?"
            )
        self._outage.recovered()
        self._answers.labels(panel=self.name, result="known").inc()
        return self._prefix + username

    async def _get(self, token: str) -> tuple[int, httpx.Headers, bytes]:
        """Return status, headers and body of the answer; a body that is too long is no answer."""
        body = bytearray()
        async with (
            asyncio.timeout(LONGEST_SECONDS),
            self._client.stream("GET", f"{self._url}/{token}/info") as response,
        ):
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > LONGEST_ANSWER_BYTES:
                    body.clear()
                    break
        return response.status_code, response.headers, bytes(body)

    def _failed(self, reason: str) -> PanelUnavailableError:
        self._failed_at_seconds = self._monotonic_seconds()
        self._outage.failed(reason)
        self._answers.labels(panel=self.name, result="unavailable").inc()
        return PanelUnavailableError(f"panel {self.name} cannot be asked now: {reason}")

    def _heed(self, retry_after: str | None) -> None:
        asked_seconds = retry_after_seconds(retry_after, now=datetime.now(UTC))
        if asked_seconds:
            pause_seconds = min(asked_seconds, LONGEST_RETRY_AFTER_SECONDS)
            self._resume_at_seconds = self._monotonic_seconds() + pause_seconds


def _setting_of(name: str) -> str:
    if name == FIRST_PANEL:
        return "MARZBAN_URL the panel and COLLECTOR_SUBSCRIPTION_PATH its subscription path"
    return f"{name}= in COLLECTOR_SUBSCRIPTION_URLS where its subscription links begin"


def _username_of(body: bytes) -> str | None:
    """Return the user of an answer; None for what names no user of this panel.

    A slash is in no panel's usernames: `two/alice` would be a user of another panel.
    """
    try:
        username = json.loads(body).get("username")
    except (ValueError, AttributeError, RecursionError):
        return None
    is_name = isinstance(username, str) and bool(username) and username.isprintable()
    return username if is_name and "/" not in username else None
