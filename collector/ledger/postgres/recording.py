"""Appends reports to a PostgreSQL ledger, on every collector."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from collector.errors import LedgerUnavailableError, NotStoredError
from collector.ledger import Batch, Receipt
from collector.ledger.capacity import Amounts, Capacity, Room
from collector.ledger.ports import Alongside
from collector.ledger.postgres import series as postgres_series
from collector.ledger.postgres.append import (
    Content,
    Group,
    KnownIdError,
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
from collector.runtime.postgres import session as postgres_session

CAPACITY_SECONDS = 60.0
"""How old the cached totals may be by which a collector decides whether reports fit."""
NEARLY_FULL_SECONDS = 1.0
"""The same while a user is nearly full, since several collectors may accept its reports."""
SPARE_BYTES = 2**56
"""How much a collector accepts before it reads the totals again. It does not see what others accept
meanwhile; up to 32 collectors stay within the range of the ledger's integers above a full total."""
RACES = 20
AGAIN_SECONDS = 5.0
"""How long a commit is retried on new connections: long enough for a failover, shorter than the
timeout of senders."""
PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class _Sent:
    """A group whose COMMIT was sent and not answered yet."""

    group_id: int
    received_at_millis: int
    group: Group
    receipts: list[Receipt]


class OutcomeUnknownError(LedgerUnavailableError):
    """Reports without an id may have been stored; only their sender can decide to retry."""


class Writer:
    """The connection by which a collector appends; for one thread.

    `led_by` is the token of the leader; if it changes, the ledger may have been restored.
    """

    def __init__(self, url: str, recall: Recall, *, partitions: int) -> None:
        self.link = Link(url, is_by_index=True)
        self._partitions = partitions
        self._recall = recall
        self.led_by = ""
        self._series = SeriesIds()
        self._series_of: tuple[int, str] = (0, "")
        self._series_epoch = 0
        self._capacity = Capacity({}, spare_bytes=0)
        self._capacity_until_seconds = 0.0
        self._is_away = False
        self._sent: _Sent | None = None
        self._expects_known = False
        """Whether the last commit met ids that are stored, so that the next one may as well."""

    def record(
        self,
        batches: Sequence[Batch],
        *,
        received_at_millis: int,
        alongside: Alongside | None = None,
    ) -> list[Receipt]:
        """Store all batches in one commit; return when the server has confirmed it.

        An unreachable server is retried for some seconds, unless the previous call failed as well.
        Raises LedgerUnavailableError if the outcome is not known; then reports with ids can be
        sent again safely.
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
        raise NotStoredError("another collector stores the same reports now; send them again")

    def _outcome(self) -> list[Receipt] | None:
        """Return the receipts of a commit whose answer was lost; None if it may be retried."""
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
            sent.group_id, len(group.reports), received_at_millis=sent.received_at_millis
        )
        self._capacity.note(
            raw_bytes=group.raw_bytes, billed_bytes=group.billed_bytes, room=group.room
        )
        return sent.receipts

    def _record(
        self, batches: Sequence[Batch], received_at_millis: int, alongside: Alongside | None
    ) -> list[Receipt] | None:
        """Store a group; None if it met a known id or a dropped series, and is to be retried.

        Ids are looked up beforehand only where some of them are expected to be known: storing
        checks them itself, and stores nothing then.
        """
        self._refresh()
        room = self._room_for(batches)
        known = self._known(batches) if self._expects_known or room is not None else {}
        self._expects_known = bool(known)
        group = Group(known, room=room, partitions=self._partitions)
        taken = [group.take(batch) for batch in batches]
        fresh = self._series.missing(group.reports)
        if fresh:
            self.link.ask(lambda db: self._series.make(db, fresh))
        doubled = self._series.missing([report for report, _ in group.duplicates])
        if doubled:
            self.link.ask(lambda db: self._series.find(db, doubled))
        receipts = [each.receipt(self._series.get) for each in taken]
        sent = _Sent(new_group_id(), received_at_millis, group, receipts)
        if not group.reports:
            return sent.receipts if self._confirm(known) else None
        try:
            self._commit(sent, alongside)
        except (KnownIdError, StaleSeriesError) as error:
            self._sent = None
            if isinstance(error, KnownIdError):
                self._expects_known = True
            else:
                self._series_of = (0, "")
            return None
        return self._stored(sent)

    def _known(self, batches: Sequence[Batch]) -> dict[bytes, Content]:
        keys = [
            report.report_key
            for batch in batches
            for report in batch.reports
            if report.report_key is not None
        ]
        return self.link.ask(lambda db: known_contents(db, keys)) if keys else {}

    def _confirm(self, known: Mapping[bytes, object]) -> bool:
        """Wait until known ids are confirmed by the standby; return whether they still exist then.

        A commit whose wait for the standby was interrupted is visible, but lost if its server
        fails. A later commit is confirmed after it, so waiting for a later one is enough.
        """
        key = next(iter(known), None)
        return key is None or self.link.run(lambda db: is_id_kept(db, key))

    def _commit(self, sent: _Sent, alongside: Alongside | None) -> None:
        """Store a group, in a transaction of one statement if a lost answer may be retried.

        Reports without an id can only be retried if the connection is lost before the COMMIT.
        """
        is_alone = alongside is None and sent.group.is_repeatable

        def store(db: Db) -> None:
            self._sent = sent if is_alone else None
            sent.group.store(
                db,
                sent.group_id,
                self._series.get,
                epoch=self._series_epoch,
                received_at_millis=sent.received_at_millis,
            )
            if alongside is not None:
                alongside(PostgresDatabase(db), sent.receipts)
            self._sent = sent  # from here on the commit may succeed

        self.link.run(store, is_one=not is_alone)

    def _refresh(self) -> None:
        """Clear the cached series if the connection or leader changed, or series were dropped."""
        self.link.connect()
        if self._series_of != (self.link.connections, self.led_by):
            self._series.clear()
            self.link.ask(self._recall.compare)
            self._series_epoch = self.link.ask(postgres_series.epoch)
            self._series_of = (self.link.connections, self.led_by)

    def _room_for(self, batches: Sequence[Batch]) -> Room | None:
        """Return the Room that checks the reports of a commit; None if all fit in any case."""
        is_known = time.monotonic() < self._capacity_until_seconds
        if is_known and self._capacity.is_ample(batches):
            return None
        if not (is_known and self._capacity.nearly_full):
            found = self.link.run(_nearly_full)
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


def _nearly_full(db: Db) -> dict[str, Amounts]:
    postgres_session.allow_scans(db)
    return sql_capacity.nearly_full(PostgresDatabase(db))
