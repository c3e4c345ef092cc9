"""Asks the panel whose subscription token it is, and remembers the answer for a while.

Marzban 0.8.4 answers `GET /{prefix}/{token}/info` with the user, and 404 for a bad or revoked
token.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime

import httpx

from collector.errors import IdentityUnknownError, PanelUnavailableError, TooManyLookupsError
from collector.metrics import Metrics
from collector.runtime.http.retry_after import retry_after_seconds
from collector.runtime.http.strangers import Strangers
from collector.runtime.rate_limit import RateLimit

KNOWN_SECONDS = 300.0
UNKNOWN_SECONDS = 15.0
REMEMBERED = 100_000
REMEMBERED_UNKNOWN = 10_000
LOOKUPS_PER_SECOND = 20.0
LOOKUP_BURST = 100.0
"""For what strangers send, and as much again for what senders with a key do."""
TIMEOUT_SECONDS = 5.0
LONGEST_RETRY_AFTER_SECONDS = 60.0
"""A panel that asks for a longer pause is asked again after this one: users wait to report."""


class Subscriptions:
    """Resolves subscription tokens to usernames.

    A token is asked about once however many requests carry it; tokens are remembered by hash.
    While the panel is down, tokens still remembered are resolved and the others are not.
    """

    def __init__(
        self,
        panel_url: str,
        *,
        path: str,
        monotonic_seconds: Callable[[], float],
        metrics: Metrics,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._path = path
        self._monotonic_seconds = monotonic_seconds
        self._metrics = metrics
        self._client = httpx.AsyncClient(
            base_url=panel_url,
            timeout=TIMEOUT_SECONDS,
            transport=transport,
            follow_redirects=False,
        )
        self._known: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        """By token, whose it is, and until when that need not be asked again."""
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        """Tokens that the panel did not know, and until when that is believed."""
        self._asking: dict[bytes, asyncio.Task[str | None]] = {}
        self._resume_at_seconds = 0.0
        self._limit = RateLimit(per_second=LOOKUPS_PER_SECOND, burst=LOOKUP_BURST)
        self._strangers = Strangers(total_per_second=LOOKUPS_PER_SECOND, total_burst=LOOKUP_BURST)

    async def close(self) -> None:
        """Close the connections to the panel."""
        await self._client.aclose()

    async def resolve(self, token: str, *, stranger: str | None) -> str:
        """Return the username.

        `stranger` is the address that sent the token, None for a sender with a key. Raises
        IdentityUnknownError for a token the panel does not accept, PanelUnavailableError when it
        cannot be asked, TooManyLookupsError when it is asked too much. A token that was right once
        is always asked about, however many wrong ones come meanwhile.
        """
        key = hashlib.sha256(token.encode()).digest()
        now_seconds = self._monotonic_seconds()
        username, until_seconds = self._known.get(key, (None, 0.0))
        if now_seconds < until_seconds or now_seconds < self._unknown.get(key, 0.0):
            self._metrics.lookups.labels(result="remembered").inc()
        else:
            username = await self._ask_once(key, token, stranger)
        if username is None:
            raise IdentityUnknownError("the panel does not know this subscription token")
        return username

    async def _ask_once(self, key: bytes, token: str, stranger: str | None) -> str | None:
        task = self._asking.get(key)
        if task is None:
            if self._monotonic_seconds() < self._resume_at_seconds:
                self._metrics.lookups.labels(result="unavailable").inc()
                raise PanelUnavailableError("the panel asked to be left alone for a while")
            is_known = key in self._known
            if not is_known:
                self._take_lookup(stranger)
            task = self._asking[key] = asyncio.create_task(self._ask(key, token))
            task.add_done_callback(lambda done: self._forget_asking(key, done))
            if stranger is not None and not is_known:
                task.add_done_callback(lambda done: self._judge(stranger, done))
        return await asyncio.shield(task)

    def _take_lookup(self, stranger: str | None) -> None:
        now_seconds = self._monotonic_seconds()
        if stranger is None:
            wait_seconds = self._limit.take("", now_seconds=now_seconds)
        else:
            wait_seconds = self._strangers.take(stranger, now_seconds=now_seconds)
        if wait_seconds:
            self._metrics.lookups.labels(result="limited").inc()
            raise TooManyLookupsError(
                "too many unknown subscription tokens; try again later", wait_seconds=wait_seconds
            )

    def _judge(self, stranger: str, done: asyncio.Task[str | None]) -> None:
        """Hold a wrong token, and nothing else, against the address it came from."""
        is_wrong = not done.cancelled() and not done.exception() and done.result() is None
        if not is_wrong:
            self._strangers.give_back(stranger, now_seconds=self._monotonic_seconds())

    def _forget_asking(self, key: bytes, done: asyncio.Task[str | None]) -> None:
        self._asking.pop(key, None)
        if not done.cancelled():
            done.exception()  # retrieved here, in case every caller was cancelled

    async def _ask(self, key: bytes, token: str) -> str | None:
        try:
            response = await self._client.get(f"/{self._path}/{token}/info")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self._metrics.lookups.labels(result="unavailable").inc()
            kind = type(error).__name__
            raise PanelUnavailableError(f"the panel does not answer ({kind})") from None
        if response.status_code in {400, 404, 422}:
            self._known.pop(key, None)
            self._unknown[key] = self._monotonic_seconds() + UNKNOWN_SECONDS
            if len(self._unknown) > REMEMBERED_UNKNOWN:
                self._unknown.popitem(last=False)
            self._metrics.lookups.labels(result="unknown").inc()
            return None
        username = _username_of(response)
        if username is None:
            self._heed(response.headers.get("retry-after"))
            self._metrics.lookups.labels(result="unavailable").inc()
            raise PanelUnavailableError(
                f"the panel answers {response.status_code} for a subscription token; is "
                "MARZBAN_URL the panel and COLLECTOR_SUBSCRIPTION_PATH its subscription path?"
            )
        self._unknown.pop(key, None)
        self._known.pop(key, None)
        self._known[key] = (username, self._monotonic_seconds() + KNOWN_SECONDS)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        self._metrics.lookups.labels(result="known").inc()
        return username

    def _heed(self, retry_after: str | None) -> None:
        asked_seconds = retry_after_seconds(retry_after, now=datetime.now(UTC))
        if asked_seconds:
            pause_seconds = min(asked_seconds, LONGEST_RETRY_AFTER_SECONDS)
            self._resume_at_seconds = self._monotonic_seconds() + pause_seconds


def _username_of(response: httpx.Response) -> str | None:
    if response.status_code != 200:
        return None
    try:
        username = response.json().get("username")
    except (ValueError, AttributeError, RecursionError):
        return None
    return username if isinstance(username, str) and username and username.isprintable() else None
