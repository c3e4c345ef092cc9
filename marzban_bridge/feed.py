"""Reads the collector's change feed: who has how much external usage now."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

import httpx

from marzban_bridge.errors import CollectorRefusedError, CollectorUnavailableError
from marzban_bridge.store import UsageChange

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


class CollectorFeed:
    """The collector's feed and its one maintenance call, over HTTP.

    Raises CollectorUnavailableError when the call may succeed later and CollectorRefusedError when
    the collector says no.
    """

    def __init__(
        self, url: str, *, admin_key: str, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._url = url
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
        params = {"after": after, "wait": wait_seconds, "limit": PAGE_SIZE}
        response = await self._send("GET", "/v1/usage/changes", params, wait_seconds + 10)
        data = response.json()
        return FeedPage(
            ledger_id=data["ledger_id"],
            head=data["head"],
            cursor=data["next"],
            changes=tuple(
                UsageChange(
                    username=change["username"],
                    total_bytes=change["upload_bytes"] + change["download_bytes"],
                    change_seq=change["change_seq"],
                )
                for change in data["changes"]
            ),
        )

    async def usage(self, username: str) -> dict[str, object]:
        """Return the collector's statistics of one user, by server, since for ever."""
        path = f"/v1/usage/{quote(username, safe='')}"
        data: dict[str, object] = (await self._send("GET", path, {}, 10)).json()
        return data

    async def cleanup(self, *, days: int) -> dict[str, object]:
        """Have the collector purge rows older than so many days; totals stay as they are."""
        path = "/v1/maintenance/cleanup"
        data: dict[str, object] = (await self._send("POST", path, {"days": days}, 60)).json()
        return data

    async def _send(
        self, method: str, path: str, params: dict[str, int | float], timeout_seconds: float
    ) -> httpx.Response:
        try:
            response = await self._client.request(
                method, path, params=params, timeout=timeout_seconds
            )
        except httpx.HTTPError as error:
            raise CollectorUnavailableError(
                f"the collector at {self._url} does not answer: {type(error).__name__} {error}"
            ) from error
        if response.status_code in {401, 403}:
            raise CollectorRefusedError(
                f"the collector at {self._url} refuses the bridge's key ({response.status_code}): "
                "COLLECTOR_ADMIN_KEY must be the same for both"
            )
        if response.status_code >= 500 or response.status_code == 429:
            raise CollectorUnavailableError(
                f"the collector at {self._url} answers {response.status_code} to {method} {path}"
            )
        if not response.is_success:
            raise CollectorRefusedError(
                f"the collector at {self._url} answers {response.status_code} to {method} {path}: "
                f"{response.text[:300]}"
            )
        return response
