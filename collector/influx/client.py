"""Talks to one InfluxDB: writes lines, deletes what is old. Blocking; call it from a thread.

The official client's background batcher loses what it cannot write, and its other writers tell no
success from another, so its generated service is called; `outcome` decides what an answer means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import urllib3
from influxdb_client import InfluxDBClient
from influxdb_client.rest import ApiException
from influxdb_client.service.write_service import WriteService

from collector.errors import InfluxRefusedError, InfluxUnavailableError, SettingsError
from collector.influx.access import InfluxAccess
from collector.influx.outcome import Outcome, Retry, decide

TIMEOUT_MILLIS = (3_000, 20_000)
"""For a connection, and for an answer."""
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
UNREADABLE_ANSWER = "the answer is no text: something other than InfluxDB answers there"


def open_client(access: InfluxAccess) -> InfluxDBClient:
    """Return the official client; nothing is sent yet. SettingsError without a readable token."""
    return InfluxDBClient(
        access.url,
        access.read_token(),
        org=access.org,
        timeout=TIMEOUT_MILLIS,
        enable_gzip=True,
    )


class Influx:
    """Writes to one InfluxDB.

    `close` forgets the connection; the next call opens another, with the token as it is then.
    """

    def __init__(
        self,
        access: InfluxAccess,
        *,
        open_client: Callable[[InfluxAccess], InfluxDBClient] = open_client,
    ) -> None:
        self._access = access
        self._open_client = open_client
        self._client: InfluxDBClient | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return self._access.url

    def write(self, bucket: str, lines: Sequence[str]) -> Outcome:
        """Write lines with timestamps in nanoseconds and say what came of it; never raises.

        A file with the token that cannot be read yet is a reason to retry.
        """
        try:
            service = WriteService(self._connected().api_client)
            _, status, _ = service.post_write_with_http_info(
                self._access.org, bucket, "\n".join(lines), precision="ns"
            )
        except ApiException as error:
            headers: Mapping[str, str] = error.headers or {}
            return decide(
                error.status or 503,
                str(error.body or error.reason),
                lines=len(lines),
                retry_after=headers.get("Retry-After"),
            )
        except urllib3.exceptions.HTTPError as error:
            return Retry(f"{self.url} does not answer: {type(error).__name__}")
        except UnicodeDecodeError:
            return Retry(f"{self.url}: {UNREADABLE_ANSWER}")
        except SettingsError as error:
            return Retry(str(error))
        return decide(status, "", lines=len(lines))

    def delete_before(self, bucket: str, before: datetime) -> None:
        """Delete all points older than a moment.

        Raises InfluxUnavailableError or InfluxRefusedError.
        """
        with answered(self.url):
            client = self._connected()
            client.delete_api().delete(BEGINNING, before, "", bucket=bucket, org=self._access.org)

    def _connected(self) -> InfluxDBClient:
        if self._client is None:
            self._client = self._open_client(self._access)
        return self._client

    def close(self) -> None:
        """Close the connection, if there is one."""
        client, self._client = self._client, None
        if client is not None:
            client.close()


@contextmanager
def answered(url: str) -> Iterator[None]:
    """Turn what the official client raises into InfluxUnavailableError or InfluxRefusedError."""
    try:
        yield
    except ApiException as error:
        text = f"{url} answers {error.status} {' '.join(str(error.body or error.reason).split())}"
        if not error.status or error.status == 429 or error.status >= 500:
            raise InfluxUnavailableError(text) from error
        raise InfluxRefusedError(text) from error
    except urllib3.exceptions.HTTPError as error:
        raise InfluxUnavailableError(f"{url} does not answer: {type(error).__name__}") from error
    except UnicodeDecodeError as error:
        raise InfluxRefusedError(f"{url}: {UNREADABLE_ANSWER}") from error
