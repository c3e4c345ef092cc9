"""A client of one InfluxDB: writes lines, deletes old points. Blocking; call it from a thread.

It uses the documented HTTP API, not the official client. That one's background batcher drops what
it cannot write, and importing it takes 14 MB of memory. `outcome` decides what an answer means;
`official` changes buckets and tokens.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar

import httpx
import msgspec

from collector.errors import (
    InfluxError,
    InfluxRefusedError,
    InfluxUnauthorizedError,
    InfluxUnavailableError,
    SettingsError,
)
from collector.influx.access import InfluxAccess
from collector.influx.kinds import TargetKind, numbers_only
from collector.influx.lines import PackedLines, pack
from collector.influx.outcome import (
    UNKNOWN_ROUTE,
    Halt,
    Outcome,
    Retry,
    Stored,
    decide,
    other_kind,
)
from collector.runtime.http.retry_after import retry_after_seconds

T = TypeVar("T")

TIMEOUT = httpx.Timeout(20, connect=3)
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
RFC3339 = "%Y-%m-%dT%H:%M:%S.%fZ"
LINES = {"content-type": "text/plain; charset=utf-8", "content-encoding": "gzip"}
MAX_REASON_LENGTH = 500


def open_client(access: InfluxAccess) -> httpx.Client:
    """Return an HTTP client with the token; SettingsError without one that is needed.

    It follows no redirect, uses no proxy of the environment, and trusts the system's certificates,
    so that an InfluxDB's certificate may be of a private authority.
    """
    is_encrypted = httpx.URL(access.url).scheme == "https"
    return httpx.Client(
        base_url=access.url,
        headers=access.headers(),
        timeout=TIMEOUT,
        trust_env=False,
        verify=ssl.create_default_context() if is_encrypted else False,
    )


class Influx:
    """Writes to one InfluxDB; any number of threads.

    After `close` the next call opens another connection, with the present token.
    """

    def __init__(
        self,
        access: InfluxAccess,
        *,
        open_client: Callable[[InfluxAccess], httpx.Client] = open_client,
    ) -> None:
        self._access = access
        self._open_client = open_client
        self._guard = threading.Lock()
        self._lent: _Lent | None = None

    @property
    def url(self) -> str:
        """Its URL."""
        return self._access.url

    @property
    def kind(self) -> TargetKind:
        """What kind of database it is."""
        return self._access.kind

    def token_fault(self) -> str:
        """Return why there is no token to be had; empty if there is one."""
        try:
            self._access.read_token()
        except SettingsError as error:
            return str(error)
        return ""

    def write(self, bucket: str, lines: Sequence[str]) -> Outcome:
        """Write lines with timestamps in nanoseconds; return the outcome, never raise.

        A token file that cannot be read yet is an outcome to retry.
        """
        kind, sent = self.kind, lines
        if kind is TargetKind.VICTORIAMETRICS:
            sent = list(numbers_only(lines))
            if lines and not sent:
                return Stored()
        try:
            with self._connected() as client:
                answer = client.post(
                    "/api/v2/write",
                    params=self._access.write_parameters(bucket),
                    content=sent.body if isinstance(sent, PackedLines) else pack("\n".join(sent)),
                    headers=LINES,
                )
        except httpx.HTTPError as error:
            return Retry(f"{self.url} does not answer: {type(error).__name__}")
        except SettingsError as error:
            return Retry(str(error))
        if told := other_kind(kind, answer.headers):
            return Halt(f"{self.url} is {told}")
        return decide(
            answer.status_code,
            answer.text,
            lines=len(lines),
            kind=kind,
            retry_after_seconds=retry_after_seconds(
                answer.headers.get("retry-after"), now=datetime.now(UTC)
            ),
        )

    def delete_before(self, bucket: str, before: datetime) -> None:
        """Delete all points before a time.

        Raises InfluxUnavailableError, InfluxRefusedError, or SettingsError without a token.
        """
        if reason := self._access.kind.reason_not_to_delete:
            raise InfluxRefusedError(reason)
        with answered(self.url), self._connected() as client:
            answer = client.post(
                "/api/v2/delete",
                params={"org": self._access.org, "bucket": bucket},
                json={
                    "start": BEGINNING.strftime(RFC3339),
                    "stop": before.astimezone(UTC).strftime(RFC3339),
                },
            )
            if not answer.is_success:
                raise refusal(self.url, answer.status_code, answer.text)

    @contextmanager
    def _connected(self) -> Iterator[httpx.Client]:
        """Yield the connection; once replaced, it is closed when its last user has finished."""
        with self._guard:
            if self._lent is None:
                self._lent = _Lent(self._open_client(self._access))
            lent = self._lent
            lent.borrowers += 1
        try:
            yield lent.client
        finally:
            with self._guard:
                lent.borrowers -= 1
                is_forgotten = lent is not self._lent and not lent.borrowers
            if is_forgotten:
                lent.client.close()

    def close(self) -> None:
        """Close the connection, if there is one, after calls in progress."""
        with self._guard:
            lent, self._lent = self._lent, None
        if lent is not None and not lent.borrowers:
            lent.client.close()


class _Lent:
    """An HTTP client, and how many threads use it."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.borrowers = 0


@contextmanager
def answered(url: str) -> Iterator[None]:
    """Translate exceptions of the HTTP client into InfluxUnavailableError."""
    try:
        yield
    except httpx.HTTPError as error:
        raise InfluxUnavailableError(f"{url} does not answer: {type(error).__name__}") from error


def refusal(url: str, status: int | None, text: str) -> InfluxError:
    """Return the error for an unsuccessful answer; without a status there was no answer."""
    message = f"{url} answers {status} {' '.join(text.split())}"[:MAX_REASON_LENGTH]
    if UNKNOWN_ROUTE in text:
        message += ": VictoriaMetrics says so; if it is one, set INFLUXDB_KIND=victoriametrics"
    if not status or status == 429 or status >= 500:
        return InfluxUnavailableError(message)
    return (InfluxUnauthorizedError if status == 401 else InfluxRefusedError)(message)


def ask(client: httpx.Client, path: str, shape: type[T], **parameters: str | int) -> T:
    """Return InfluxDB's answer to a GET, decoded; to be called within `answered`.

    Raises InfluxUnavailableError, or InfluxRefusedError for an unsuccessful answer or one of
    another shape.
    """
    answer = client.get(path, params=parameters)
    if not answer.is_success:
        raise refusal(str(client.base_url), answer.status_code, answer.text)
    try:
        return msgspec.json.decode(answer.content, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InfluxRefusedError(
            f"{client.base_url} does not answer as InfluxDB does: correct INFLUXDB_URL"
        ) from error
