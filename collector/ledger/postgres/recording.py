"""Appends to a PostgreSQL ledger: what one collector's `record` does, whoever leads."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from collector.errors import LedgerUnavailableError, NotStoredError
from collector.ledger import Batch, Receipt
from collector.ledger.capacity import Capacity, Room
from collector.ledger.ports import Alongside
from collector.ledger.postgres import series as postgres_series
from collector.ledger.postgres.append import (
    Group,
    LostRaceError,
    StaleSeriesError,
    is_group_kept,
    is_id_kept,
    known_contents,
    new_group_id,
)
from collector.ledger.postgres.database import PostgresDatabase
from collector.ledger.postgres.link import Db, Link
from collector.ledger.postgres.recall import Recall
from collector.ledger.postgres.series import SeriesIds
from collector.ledger.sql import capacity as sql_capacity

CAPACITY_SECONDS = 60.0
"""How old a look at the users' totals may be by which a collector tells whether more fits."""
NEARLY_FULL_SECONDS = 1.0
"""The same while a user is nearly full, whose reports may come to several collectors."""
SPARE_BYTES = 2**56
"""What a collector accepts without looking at the totals again. What others accept meanwhile it
does not see: up to 32 of them together stay within what the ledger's integers hold beyond a full
total."""
RACES = 20
AGAIN_SECONDS = 5.0
"""How long a commit is tried again on new connections: a failover should be over by then, and the
sender be waiting still."""
PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class _Sent:
    """A group whose commit was asked for, and not answered yet."""

    group_id: int
    received_at_millis: int
    group: Group
    receipts: list[Receipt]


class OutcomeUnknownError(LedgerUnavailableError):
    """Reports without an id may have been stored: only their sender can tell whether to repeat."""


class Writer:
    """The connection that a collector appends over; belongs to one thread.

    `led_by` is under whose token the ledger goes on; under another one it may be a restored one.
    """

    def __init__(self, url: str, recall: Recall) -> None:
        self.link = Link(url)
        self._recall = recall
        self.led_by = ""
        self._series = SeriesIds()
        self._series_of: tuple[int, str] = (0, "")
        self._series_epoch = 0
        self._capacity = Capacity({}, spare_bytes=0)
        self._capacity_until_seconds = 0.0
        self._is_away = False
        self._sent: _Sent | None = None

    def record(
        self,
        batches: Sequence[Batch],
        *,
        received_at_millis: int,
        alongside: Alongside | None = None,
    ) -> list[Receipt]:
        """Store all batches in one commit; returns when it is where the server keeps commits.

        A server that is away is tried for some seconds, on new connections, unless it was away for
        the call before as well. Raises LedgerUnavailableError where the outcome is not known: then
        ids are safe to be sent again.
        """
        until_seconds = time.monotonic() + (0 if self._is_away else AGAIN_SECONDS)
        races, self._sent = 0, None
        while races < RACES:
            try:
                receipts = self._outcome() or self._record(batches, received_at_millis, alongside)
            except LedgerUnavailableError as error:
                is_over = isinstance(error, OutcomeUnknownError)
                if is_over or time.monotonic() >= until_seconds:
                    self._is_away = True
                    raise
                time.sleep(PAUSE_SECONDS)
            else:
                self._is_away = False
                if receipts is not None:
                    return receipts
                races += 1
        raise NotStoredError("others store the same reports just now; send again")

    def _outcome(self) -> list[Receipt] | None:
        """Return the receipts of a commit whose answer was lost; None where it may be repeated."""
        if self._sent is None:
            return None
        sent = self._sent
        if self.link.run(lambda db: is_group_kept(db, sent.group_id)):
            return self._stored(sent)
        if not sent.group.is_repeatable:
            raise OutcomeUnknownError(
                f"the ledger {self.link.name} did not answer whether reports without an id are "
                "stored, and they are not there now"
            )
        self._sent = None
        return None

    def _stored(self, sent: _Sent) -> list[Receipt]:
        self._sent = None
        group = sent.group
        self._recall.stored(
            sent.group_id, len(group.rows), received_at_millis=sent.received_at_millis
        )
        self._capacity.note(
            raw_bytes=group.raw_bytes, billed_bytes=group.billed_bytes, room=group.room
        )
        return sent.receipts

    def _record(
        self, batches: Sequence[Batch], received_at_millis: int, alongside: Alongside | None
    ) -> list[Receipt] | None:
        """Store a group; None where an id was stored by others, or dropped, meanwhile."""
        self._refresh()
        keys = [
            report.report_key
            for batch in batches
            for report in batch.reports
            if report.report_key is not None
        ]
        known = self.link.ask(lambda db: known_contents(db, keys)) if keys else {}
        group = Group(known, room=self._room_for(batches))
        taken = [group.take(batch) for batch in batches]
        if group.rows or group.duplicates:
            fresh = [report for report, _ in group.rows]
            self.link.ask(lambda db: self._series.make(db, fresh))
            doubled = [report for report, _ in group.duplicates]
            self.link.ask(lambda db: self._series.find(db, doubled))
        receipts = [each.receipt(self._series.get) for each in taken]
        sent = _Sent(new_group_id(), received_at_millis, group, receipts)
        if not group.rows:
            return sent.receipts if self._confirm(known) else None
        try:
            self._commit(sent, alongside)
        except LostRaceError:
            return None
        except StaleSeriesError:
            self._series_of = (0, "")
            return None
        return self._stored(sent)

    def _confirm(self, known: Mapping[bytes, object]) -> bool:
        """Wait until what is known is where a commit is; whether it is still known then.

        A commit whose wait for the standby was cut short is there for everybody to read, and is
        lost with its server. One that comes after it is confirmed after it.
        """
        key = next(iter(known), None)
        return key is None or self.link.run(lambda db: is_id_kept(db, key))

    def _commit(self, sent: _Sent, alongside: Alongside | None) -> None:
        def store(db: Db) -> None:
            self._sent = None
            sent.group.store(
                db,
                sent.group_id,
                self._series.get,
                epoch=self._series_epoch,
                received_at_millis=sent.received_at_millis,
            )
            if alongside is not None:
                alongside(PostgresDatabase(db), sent.receipts)
            self._sent = sent  # from here on it may come about

        self.link.run(store)

    def _refresh(self) -> None:
        """Forget series that were read of another connection or leader, or have been dropped."""
        self.link.connect()
        if self._series_of != (self.link.connections, self.led_by):
            self._series.clear()
            self.link.ask(self._recall.compare)
            self._series_epoch = self.link.ask(postgres_series.epoch)
            self._series_of = (self.link.connections, self.led_by)

    def _room_for(self, batches: Sequence[Batch]) -> Room | None:
        """Return what decides about each report of a commit; None where all fit in any case."""
        is_known = time.monotonic() < self._capacity_until_seconds
        if is_known and self._capacity.is_ample(batches):
            return None
        if not (is_known and self._capacity.nearly_full):
            found = self.link.ask(lambda db: sql_capacity.nearly_full(PostgresDatabase(db)))
            self._capacity = Capacity(found, spare_bytes=SPARE_BYTES)
            kept_seconds = NEARLY_FULL_SECONDS if found else CAPACITY_SECONDS
            self._capacity_until_seconds = time.monotonic() + kept_seconds
        if self._capacity.is_ample(batches):
            return None
        return self._capacity.room(
            batches,
            lambda username: self.link.ask(
                lambda db: sql_capacity.total_of(PostgresDatabase(db), username)
            ),
        )
