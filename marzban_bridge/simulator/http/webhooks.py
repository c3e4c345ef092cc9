"""The panel's webhook queue: in memory, in batches, each event tried a few times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from marzban_bridge.simulator.panel.dialect import SimulatedDialect


class Event(dict[str, Any]):
    """An event's JSON, with when it is due and how often it was sent."""

    due_at: float
    attempts: int = 0


class WebhookQueue:
    """Events that wait for the next batch; a restart loses them.

    Where an event's time is not real, `enqueued_at` and `send_at` are the process's start, whatever
    the time of the event; then only a retry gets a true `send_at`.
    """

    def __init__(self, *, started_at: datetime, dialect: SimulatedDialect) -> None:
        self._started_at = started_at.timestamp()
        self._dialect = dialect
        self._waiting: list[Event] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, action: str, username: str, fields: Mapping[str, Any], *, now: datetime) -> None:
        """Queue an event; `fields` are what it carries beside its name, user name and times."""
        at = now.timestamp() if self._dialect.event_time_is_real else self._started_at
        event = Event(enqueued_at=at, send_at=at, tries=0)
        event.update(username=username, action=action, **fields)
        event.due_at = at
        self._waiting.append(event)

    def take(self, now: datetime) -> list[Event]:
        """Remove and return one batch of due events, lost unless handed to `failed`."""
        due = [event for event in self._waiting if event.due_at <= now.timestamp()]
        batch = due[: self._dialect.batch_size]
        taken = {id(event) for event in batch}
        self._waiting = [event for event in self._waiting if id(event) not in taken]
        return batch

    def failed(
        self, batch: Sequence[Event], now: datetime, *, retry_after_seconds: int, deliveries: int
    ) -> None:
        """Queue a batch again that no address accepted, and drop what was tried often enough."""
        for event in batch:
            event.attempts += 1
            if event.attempts >= deliveries:
                continue
            event.due_at = now.timestamp() + retry_after_seconds
            if self._dialect.retry_is_told:
                event["tries"] = event.attempts
                event["send_at"] = event.due_at
            self._waiting.append(event)
