"""Finds the id of a push that has none: a new one, or that of the first try if it is a retry.

Tries are recognised in memory and, after a restart, by the ids in the ledger.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from collector.ledger.async_read import AsyncRead
from collector.ledger.ports import LedgerReader
from collector.metrics import Metrics
from collector.reports.report import report_key
from collector.sources import uniproxy
from collector.sources.retries import RecentPushes, Seen, content_of, ids_of
from collector.sources.uniproxy import Node, UniProxy


@dataclass(frozen=True, slots=True)
class Push:
    """A push: its body, and its node's configuration."""

    reporter: str
    node: Node
    panel: UniProxy
    body: bytes

    @property
    def window_millis(self) -> int:
        """How long an identical push is taken for a retry."""
        return int(self.panel.retry_window_seconds * 1000)

    def keys(self, message_id: str) -> list[bytes]:
        """Return the ledger keys of the push's reports, if the push has this id."""
        translated = uniproxy.translate(self.body, self.node, self.panel, message_id=message_id)
        scope = f"reporter:{self.reporter}"
        ids = [wire.report_id for _, wire in translated.reports if wire.report_id is not None]
        return [report_key(scope, each) for each in ids]


class PushIds:
    """The ids of the pushes to one collector."""

    def __init__(
        self,
        *,
        read: AsyncRead,
        now_millis: Callable[[], int],
        metrics: Metrics,
    ) -> None:
        self._recent = RecentPushes()
        self._read = read
        self._now_millis = now_millis
        self._metrics = metrics

    async def id_of(self, push: Push) -> str | None:
        """Return the id of a push; None if every push is counted (a retry window of 0).

        Raises UnreadableBodyError, BodyTooLargeError and LedgerError.
        """
        window_millis = push.window_millis
        if not window_millis:
            return None
        recent, now_millis = self._recent, self._now_millis()
        node = f"{push.node.type}/{push.node.id}"
        content = content_of(reporter=push.reporter, node=node, body=push.body)
        ids = ids_of(content, now_millis=now_millis, window_millis=window_millis)
        if (seen := recent.find(content)) is None:
            stored = await self._find_stored(push, ids)
            seen = recent.find(content) or stored  # another try may have been noted meanwhile
            if seen is not None:
                recent.note(content, seen, now_millis=now_millis)
        if seen is not None and seen.is_within_window(now_millis):
            self._metrics.retries.labels(source=uniproxy.KIND).inc()
            return seen.message_id
        recent.note(content, Seen(ids[0], now_millis, window_millis), now_millis=now_millis)
        return ids[0]

    async def _find_stored(self, push: Push, message_ids: tuple[str, str]) -> Seen | None:
        for message_id in message_ids:
            if keys := push.keys(message_id):
                first_millis = await self._read(_first_received_at(keys))
                if first_millis is not None:
                    return Seen(message_id, first_millis, push.window_millis)
        return None


def _first_received_at(keys: list[bytes]) -> Callable[[LedgerReader], int | None]:
    return lambda reader: reader.first_received_at(keys)
