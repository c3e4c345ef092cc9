"""The panel's webhook queue: in memory, in batches, tried four times."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

MAX_RETRIES = 3
RETRY_AFTER = timedelta(seconds=180)
"""Marzban 0.8.4: RECURRENT_NOTIFICATIONS_TIMEOUT."""

Event = dict[str, Any]


class WebhookQueue:
    """Events that wait for the next batch.

    Marzban 0.8.4: `enqueued_at` and `send_at` of a new event are the process's start, whatever the
    time of the event; only a retry gets a true `send_at`. A restart loses the queue.
    """

    def __init__(self, *, started_at: datetime, retry_after: timedelta = RETRY_AFTER) -> None:
        self._started_at = started_at.timestamp()
        self._retry_after = retry_after
        self._waiting: deque[Event] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, action: str, username: str, fields: Mapping[str, Any]) -> None:
        """Queue an event; `fields` are what it carries beside its name, user name and times."""
        event = {"enqueued_at": self._started_at, "send_at": self._started_at, "tries": 0}
        self._waiting.append({**event, "username": username, "action": action, **fields})

    def take(self, now: datetime) -> list[Event]:
        """Remove and return the events that are due; they are lost unless handed to `failed`."""
        due = [event for event in self._waiting if event["send_at"] <= now.timestamp()]
        self._waiting = deque(e for e in self._waiting if e["send_at"] > now.timestamp())
        return due

    def failed(self, batch: Sequence[Mapping[str, Any]], now: datetime) -> None:
        """Queue a batch again that no address accepted, and drop what was tried often enough."""
        for event in batch:
            if event["tries"] < MAX_RETRIES:
                send_at = (now + self._retry_after).timestamp()
                self._waiting.append({**event, "tries": event["tries"] + 1, "send_at": send_at})
