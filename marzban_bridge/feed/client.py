"""HTTP client of the collector: the change feed of external usage, positions, corrections."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx

from marzban_bridge.errors import (
    CollectorNotFoundError,
    CollectorRefusedError,
    CollectorUnavailableError,
)
from marzban_bridge.feed.ledger_runs import WriterRun
from marzban_bridge.panels.http.retry_after import bounded_seconds
from marzban_bridge.quota.corrections import Answer, Question, Source
from marzban_bridge.quota.usage import UsageChange

PAGE_SIZE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedPage:
    """A page of the change feed, in the order of the changes."""

    ledger_id: str
    head: int
    """The last sequence number the ledger has given out; less than our cursor after a restore."""
    cursor: int
    """Where the next page begins."""
    changes: tuple[UsageChange, ...]
    runs: tuple[WriterRun, ...]
    """The run that stored what was read last, and all later ones; none from older collectors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderPosition:
    """The store's position that was last reported to the collector."""

    position: int
    mark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedPosition:
    """A store, of this or another bridge, whose position was reported to the collector."""

    name: str
    position: int
    panel: str
    """A digest of the panel's host; empty if an earlier version reported it."""


class CollectorFeed:
    """The collector's feed and its one maintenance call, over HTTP.

    Raises CollectorUnavailableError when the call may succeed later and CollectorRefusedError when
    the collector refuses it. After an answer with Retry-After no call is sent before that time.
    """

    def __init__(
        self,
        url: str,
        *,
        admin_key: str,
        transport: httpx.AsyncBaseTransport | None = None,
        monotonic_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._monotonic_seconds = monotonic_seconds
        self._resume_at_seconds = 0.0
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"authorization": f"Bearer {admin_key}"},
            timeout=10,
            transport=transport,
            trust_env=False,  # a proxy for the outside world is not the way to one's own collector
        )

    async def close(self) -> None:
        """Close the connections to the collector."""
        await self._client.aclose()

    async def read(self, *, after: int, wait_seconds: float = 0) -> FeedPage:
        """Return the changes after a sequence number, waiting for the first if asked to."""
        params: dict[str, int | float | str] = {
            "after": after,
            "wait": wait_seconds,
            "limit": PAGE_SIZE,
        }
        response = await self._send("GET", "/v1/usage/changes", params, wait_seconds + 10)
        data = self._object_of(response)
        try:
            page = _parse_page(data)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise self._refuse_shape(response) from error
        if page.changes and page.cursor <= after:  # it would be read again and again
            raise self._refuse_shape(response)
        return page

    async def position_of(self, reader: str) -> ReaderPosition | None:
        """Return a reader's last reported position; None if none was reported."""
        try:
            response = await self._send("GET", f"/v1/readers/{reader}", {}, 10)
        except CollectorNotFoundError:
            return None
        data = self._object_of(response)
        try:
            return ReaderPosition(position=_whole(data["position"]), mark=_text(data["mark"]))
        except (LookupError, ValueError) as error:
            raise self._refuse_shape(response) from error

    async def reported_positions(self) -> tuple[ReportedPosition, ...]:
        """Return all stores whose position was reported to the collector."""
        try:
            response = await self._send("GET", "/v1/readers", {}, 10)
        except CollectorNotFoundError:  # an older one, and an older bridge
            return ()
        data = self._object_of(response)
        try:
            return tuple(
                ReportedPosition(
                    name=_text(each["reader"]),
                    position=_whole(each["position"]),
                    panel=_text(each["panel"]),
                )
                for each in data["readers"]
            )
        except (LookupError, TypeError, ValueError) as error:
            raise self._refuse_shape(response) from error

    async def report_position(self, reader: str, *, position: int, mark: str, panel: str) -> None:
        """Report a reader's position, and its panel, to the collector."""
        body = {"position": position, "mark": mark, "panel": panel}
        await self._send("PUT", f"/v1/readers/{reader}", {}, 10, json=body)

    async def corrected(self, question: Question) -> Answer:
        """Return the sum of a name's corrections in a range of change numbers."""
        params: dict[str, int | float | str] = {
            "username": question.username,
            "after_seq": question.after_seq,
            "through_seq": question.through_seq,
            "period_since": question.period_since.isoformat(),
        }
        if question.period_seq is not None:
            params["period_seq"] = question.period_seq
        response = await self._send("GET", "/v1/corrections/sum", params, 10)
        data = self._object_of(response)
        try:
            return Answer(
                billed_bytes=_signed(data["period_billed_bytes"]),
                raw_bytes=_signed(data["period_raw_bytes"]),
                all_billed_bytes=_signed(data["billed_bytes"]),
                sources=tuple(
                    Source(
                        number=_whole(each["number"]),
                        kind=_text(each["kind"]),
                        reason=_text(each["reason"]),
                        actor=_text(each["actor"]),
                        scope="" if each["scope"] is None else _text(each["scope"]),
                    )
                    for each in data["corrections"]
                ),
            )
        except (LookupError, TypeError, ValueError) as error:
            raise self._refuse_shape(response) from error

    async def usage(self, username: str) -> dict[str, object]:
        """Return the collector's statistics of one user, by server, over all time."""
        path = f"/v1/usage/{quote(username, safe='')}"
        return self._object_of(await self._send("GET", path, {}, 10))

    async def database(self) -> dict[str, object]:
        """Return the ledger's facts; older collectors have fewer."""
        return self._object_of(await self._send("GET", "/v1/database", {}, 20))

    async def cleanup(self, *, days: int) -> dict[str, object]:
        """Have the collector delete rows older than `days`; totals stay."""
        path = "/v1/maintenance/cleanup"
        return self._object_of(await self._send("POST", path, {"days": days}, 60))

    def _object_of(self, response: httpx.Response) -> dict[str, Any]:
        try:
            data = response.json()
        except (ValueError, RecursionError) as error:
            raise self._refuse_shape(response) from error
        if not isinstance(data, dict):
            raise self._refuse_shape(response)
        return data

    def _refuse_shape(self, response: httpx.Response) -> CollectorRefusedError:
        """Return the error for an answer that is not a collector's."""
        return CollectorRefusedError(
            f"{self._url} answers {response.request.url.path} with something that no collector "
            "answers: is COLLECTOR_URL the collector?"
        )

    async def _send(
        self,
        method: str,
        path: str,
        params: dict[str, int | float | str],
        timeout_seconds: float,
        json: dict[str, object] | None = None,
    ) -> httpx.Response:
        if (wait_seconds := self._resume_at_seconds - self._monotonic_seconds()) > 0:
            raise CollectorUnavailableError(
                f"the collector at {self._url} asked for a pause (Retry-After)",
                retry_after_seconds=wait_seconds,
            )
        try:
            response = await self._client.request(
                method, path, params=params, json=json, timeout=timeout_seconds
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise CollectorUnavailableError(
                f"the collector at {self._url} does not answer: {type(error).__name__} {error}"
            ) from error
        if response.status_code in {401, 403}:
            raise CollectorRefusedError(
                f"the collector at {self._url} refuses the bridge's key ({response.status_code}): "
                "COLLECTOR_ADMIN_KEY must be the same for both"
            )
        if response.status_code >= 500 or response.status_code == 429:
            pause_seconds = bounded_seconds(
                response.headers.get("retry-after"), now=datetime.now(UTC)
            )
            self._resume_at_seconds = self._monotonic_seconds() + (pause_seconds or 0.0)
            raise CollectorUnavailableError(
                f"the collector at {self._url} answers {response.status_code} to {method} {path}",
                retry_after_seconds=pause_seconds,
            )
        if not response.is_success:
            kind = CollectorNotFoundError if response.status_code == 404 else CollectorRefusedError
            raise kind(
                f"the collector at {self._url} answers {response.status_code} to {method} {path}: "
                f"{response.text[:300]}"
            )
        return response


def _parse_page(data: Mapping[str, Any]) -> FeedPage:
    return FeedPage(
        ledger_id=_text(data["ledger_id"]),
        head=_whole(data["head"]),
        cursor=_whole(data["next"]),
        changes=tuple(_parse_change(change) for change in data["changes"]),
        runs=tuple(
            WriterRun(_whole(run["after_seq"]), _text(run["token"])) for run in data.get("runs", ())
        ),
    )


def _parse_change(data: Mapping[str, Any]) -> UsageChange:
    raw_bytes = _whole(_whole(data["upload_bytes"]) + _whole(data["download_bytes"]))
    # A collector without ratios sends no billed bytes: they are the raw ones.
    corrected_bytes = _signed(data.get("corrected_billed_bytes", 0))
    corrected_raw_bytes = _signed(
        _signed(data.get("corrected_upload_bytes", 0))
        + _signed(data.get("corrected_download_bytes", 0))
    )
    return UsageChange(
        corrected_bytes=corrected_bytes,
        corrected_raw_bytes=corrected_raw_bytes,
        corrected_seq=_whole(data.get("corrected_seq", 0)),
        username=_text(data["username"]),
        total_bytes=_whole(data.get("billed_bytes", raw_bytes)),
        raw_bytes=raw_bytes,
        change_seq=_whole(data["change_seq"]),
    )


def _whole(value: object) -> int:
    """Return a number the store can hold; ValueError for what is none."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError("a whole number is expected where there is none")
    return value


def _signed(value: object) -> int:
    """Return a number the store can hold, which may be negative; ValueError for what is none."""
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) < value < 2**63:
        raise ValueError("a whole number is expected where there is none")
    return value


def _text(value: object) -> str:
    """Return a text the store can hold; ValueError for what is none."""
    if not isinstance(value, str):
        raise ValueError("a text is expected where there is none")  # noqa: TRY004 - one kind for all that is malformed
    value.encode()
    return value
