"""Delivers an outbox, attempt by attempt; the caller does the I/O.

A delivery is a generator: it yields what has to be done (`Post`, `Call`) and receives the result.
`AsyncWire.drive` carries these out.
"""

from __future__ import annotations

import gzip
import secrets
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Protocol

from collector.client.answers import (
    Again,
    Denied,
    Fault,
    Taken,
    Unfit,
    Verdict,
    judge_reports,
)
from collector.client.errors import FailureKind
from collector.client.outbox import Item, Outbox, SetAside, Settlement
from collector.client.receipt import Receipt, Rejected
from collector.client.report import completed, has_time
from collector.runtime.http.answer_mark import REQUEST_HEADER, is_of_another_request

MOST_REPORTS = 10_000
MOST_BYTES = 8 * 2**20
"""The most bytes a collector accepts in one request."""
DEFAULT_BATCH_REPORTS = 2_000
MOST_REPORTS_WITHOUT_KEY = 400
"""The same for a request without a key, of which a collector accepts 256 KiB."""
ADDED_BYTES = 2_300
"""The most bytes that sending adds to a report: the subscription and the time."""
GZIP_FROM_BYTES = 1_000
IDS_ARE_KNOWN_MILLIS = 6 * 86_400_000
"""For how long after a report was queued it may be sent again with another time: a collector
remembers ids for a week."""


@dataclass(frozen=True, slots=True)
class Post:
    """An HTTP request to make; its result is an `Answer` or a `NoAnswer`."""

    path: str
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class Call:
    """A call to make, which may access files; its result is the returned value."""

    run: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """No answer, and why; `is_unsent` if the request cannot have left this machine."""

    kind: FailureKind
    reason: str
    is_unsent: bool = False


@dataclass(frozen=True, slots=True)
class Empty:
    """The outbox was empty."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Some items are settled, or the next request is smaller: make the next attempt at once."""

    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Setback:
    """Nothing was delivered; retry after a backoff."""

    reason: str
    after_seconds: float | None = None
    is_denied: bool = False
    kind: FailureKind = "busy"
    status: int | None = None


Step = Empty | Progress | Setback
Attempt = Generator[Post | Call, Any, Step]


class Parcel(Protocol):
    """Packs items of an outbox into requests, and decides what the answers mean."""

    @property
    def most_items(self) -> int:
        """The most items in one request."""
        ...

    def pack(self, items: Sequence[Item]) -> Post:
        """Return the request that carries the items."""
        ...

    def judge(self, answer: Answer, *, count: int, now: datetime) -> Verdict:
        """Decide what an answer means."""
        ...


@dataclass(frozen=True, slots=True)
class Reports:
    """Many reports in one request to `/v1/reports`."""

    key: str | None = field(repr=False)
    subscription: str | None = field(repr=False)
    most_items: int = DEFAULT_BATCH_REPORTS

    def pack(self, items: Sequence[Item]) -> Post:
        """Return the request that carries the reports."""
        parts = [
            completed(
                each.body,
                subscription=self.subscription,
                queued_at_millis=None if each.is_undated else each.queued_at_millis,
            )
            for each in items
        ]
        headers = {"content-type": "application/json"}
        if self.key is not None:
            headers["authorization"] = f"Bearer {self.key}"
        content = b"[" + b",".join(parts) + b"]"
        if len(content) >= GZIP_FROM_BYTES:
            headers["content-encoding"] = "gzip"
            content = gzip.compress(content, compresslevel=5, mtime=0)
        return Post("/v1/reports", headers, content)

    def judge(self, answer: Answer, *, count: int, now: datetime) -> Verdict:
        """Decide what an answer means."""
        return judge_reports(answer.status, answer.headers, answer.body, count=count, now=now)


def _with_id(post: Post, request_id: str) -> Post:
    """Return the request with an id, which the collector's answer repeats."""
    return Post(post.path, {**post.headers, REQUEST_HEADER: request_id}, post.content)


class Delivery:
    """Delivers an outbox to a collector; for one task at a time."""

    def __init__(self, outbox: Outbox, parcel: Parcel, *, now_millis: Callable[[], int]) -> None:
        self._outbox = outbox
        self._parcel = parcel
        self._now_millis = now_millis
        self._most_items = parcel.most_items

    def attempt(self) -> Attempt:
        """Send the oldest items in one request, and settle them by the answer."""
        items: list[Item] = yield Call(self._take)
        if not items:
            return Empty()
        request_id = secrets.token_hex(8)
        answer: Answer | NoAnswer = yield _with_id(self._parcel.pack(items), request_id)
        if isinstance(answer, Answer) and is_of_another_request(answer.headers, request_id):
            answer = NoAnswer("not_a_collector", "is not reached: the answer is another request's")
        if isinstance(answer, NoAnswer):
            yield self._give_back(is_unsent=answer.is_unsent)
            return Setback(answer.reason, kind=answer.kind)
        now = datetime.fromtimestamp(self._now_millis() / 1000, tz=timezone.utc)
        match self._parcel.judge(answer, count=len(items), now=now):
            case Again(reason, after_seconds, kind):
                yield self._give_back(is_unsent=False)
                return Setback(reason, after_seconds, kind=kind, status=answer.status)
            case Denied(reason):
                yield self._give_back(is_unsent=False)
                return Setback(reason, is_denied=True, kind="unauthorized", status=answer.status)
            case Unfit(reason) if len(items) > 1:
                # One item is refused: smaller requests find out which one.
                self._most_items = max(1, len(items) // 2)
                return Progress(Receipt())
            case Unfit(reason):
                settlement = Settlement(set_aside=[SetAside(items[0], reason)])
                receipt = Receipt()
            case Taken() as taken:
                settlement = self._settlement(items, taken.faults)
                receipt = Receipt(taken.accepted, taken.duplicates, taken.ignored)
        self._most_items = min(self._parcel.most_items, self._most_items * 2)
        yield Call(lambda: self._outbox.settle(settlement))
        rejected = tuple(Rejected(each.item.item_id, each.reason) for each in settlement.set_aside)
        return Progress(receipt + Receipt(rejected=rejected))

    def _give_back(self, *, is_unsent: bool) -> Call:
        return Call(lambda: self._outbox.give_back(is_unsent=is_unsent))

    def _take(self) -> list[Item]:
        room_bytes = MOST_BYTES - self._most_items * ADDED_BYTES
        return self._outbox.first(
            most_items=self._most_items, most_bytes=max(room_bytes, MOST_BYTES // 8)
        )

    def _settlement(self, items: Sequence[Item], faults: Sequence[Fault]) -> Settlement:
        by_index = {each.index: each for each in faults}
        done, set_aside, undated = [], [], []
        for index, item in enumerate(items):
            fault = by_index.get(index)
            if fault is None:
                done.append(item)
            elif fault.field == "reported_at" and self._is_moment_ours(item):
                undated.append(item)
            else:
                set_aside.append(SetAside(item, f"{fault.field} {fault.reason}"))
        return Settlement(done, set_aside, undated)

    def _is_moment_ours(self, item: Item) -> bool:
        """Tell whether an item was refused for a time that this machine's clock gave it.

        Such a report is sent again without a time, and the collector dates it. Not so if it was
        sent before and its id may be forgotten by now: it might count twice.
        """
        if item.is_undated or has_time(item.body):
            return False
        if item.is_untried:
            return True
        return abs(self._now_millis() - item.queued_at_millis) < IDS_ARE_KNOWN_MILLIS
