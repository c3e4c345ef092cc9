"""A store in PostgreSQL: read into memory when a bridge begins to lead, then written through.

The leader is the only writer, so what it has read stays current: every query is answered from a
copy in memory, which has the file's schema and takes the file's statements. What a transaction
changes in the copy is written to PostgreSQL by one statement, which first extends the lease, before
the copy commits. When that fails, for whatever reason, nothing more is written: the copy is
dropped, and the next leader reads the store again.

The audit trail is many times larger than the rest, so it is queried in PostgreSQL and not kept in
memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from collector.runtime.boot_clock import seconds_now
from marzban_bridge.errors import NotLeadingError, StoreError
from marzban_bridge.store.handle import DELETE_EVENTS, StoreHandle
from marzban_bridge.store.postgres import upgrade as shared_upgrade
from marzban_bridge.store.postgres.lease import COUNT_COMMIT, Lease
from marzban_bridge.store.postgres.link import PostgresLink, open_connection
from marzban_bridge.store.postgres.rows import columns_of, deletion, load, upsert
from marzban_bridge.store.postgres.schema import EVENTS, TABLES, Table, version_of

_LED = "EXISTS (SELECT 1 FROM led)"
_BY_NAME = {table.name: table for table in TABLES}


class PostgresReplica(StoreHandle):
    """The leader's replica of the store in memory, written through to PostgreSQL."""

    def __init__(self, url: str, lease: Lease) -> None:
        self._lease = lease
        self._link = PostgresLink(url, is_of_one_server=True)
        self._trail = PostgresTrail(url)
        self.lost: str | None = None
        """Why nothing may be written any more; None while the lease is held."""
        try:
            self._link.connect()  # before the store is read: writes go to the same server
            if shared_upgrade.is_due(self._link):
                shared_upgrade.upgrade(url, lease)
            super().__init__(load(url), trail=self._trail)
        except BaseException:
            self._trail.close()
            self._link.close()
            raise
        self._trail.on_fault = self._lose
        _watch(self.db)
        self.db.execute("PRAGMA query_only = ON")

    def close(self) -> None:
        """Close the copy and the connections; `Leadership` gives the lease back."""
        self.lost = self.lost or "this bridge does not lead any more"
        super().close()
        self._trail.close()
        self._link.close()

    def _begin(self) -> None:
        if self.lost:
            raise NotLeadingError(self.lost)
        # Without a transaction the copy is read-only: a change would not reach PostgreSQL.
        self.db.execute("PRAGMA query_only = OFF")
        self.db.execute("BEGIN IMMEDIATE")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run a block as one transaction, committed in PostgreSQL first and then in the copy.

        Raises NotLeadingError if the commit fails or is not answered; in the latter case it may
        have succeeded.
        """
        is_outermost = not self.db.in_transaction
        try:
            with super().transaction():
                yield
        finally:
            if is_outermost:
                self.db.execute("PRAGMA query_only = ON")

    def _commit(self) -> None:
        if work := _changes(self.db):
            self._write(work)
            self.db.execute("DELETE FROM event")
            self.db.execute("DELETE FROM temp.changed")
        self.db.execute("COMMIT")

    def _write(self, work: Sequence[tuple[str, Sequence[Any]]]) -> None:
        """Write or delete rows by one idempotent statement.

        Its first part is the fence: if that finds no row of the lease, the others write nothing.
        """
        parts = [f"led AS ({COUNT_COMMIT})"]
        parts += [f"write_{number} AS ({part})" for number, (part, _) in enumerate(work)]
        statement = f"WITH {', '.join(parts)} SELECT commits, loss FROM led"
        values = [*self._lease.fence, *(each for _, given in work for each in given)]
        started_at = seconds_now()
        try:
            found = self._link.ask(lambda db: db.execute(statement, values).fetchone())
            self._lease.moved(started_at, found)
        except StoreError as error:
            self._lose(str(error))
            raise NotLeadingError(str(error)) from error

    def delete_events(self, *, after: int, through: int, before_millis: int) -> None:
        """Delete events in PostgreSQL: the copy has none. Raises NotLeadingError as a commit."""
        if self.lost:
            raise NotLeadingError(self.lost)
        statement = f"{DELETE_EVENTS.format('%s')} AND {_LED}"
        self._write([(statement, (after, through, before_millis))])

    def _lose(self, reason: str) -> None:
        self.lost = reason


class ReplicaReader(StoreHandle):
    """The store as of one moment, for reading only."""

    def __init__(self, url: str) -> None:
        self._trail = PostgresTrail(url)
        try:
            super().__init__(load(url), trail=self._trail)
        except BaseException:
            self._trail.close()
            raise
        self.db.execute("PRAGMA query_only = ON")

    def close(self) -> None:
        """Close the copy and the connection."""
        super().close()
        self._trail.close()


class PostgresTrail:
    """The events in the database; the connection is not reopened at a different server."""

    def __init__(self, url: str) -> None:
        self._link = PostgresLink(url, is_of_one_server=True, only_reads=True)
        self._link.connect()
        self.on_fault: Callable[[str], None] = lambda _reason: None

    def execute(self, query: str, values: Sequence[Any] = (), /) -> Any:
        """Run a query and return its cursor; NotLeadingError when that is not possible."""
        try:
            return self._link.ask(lambda db: db.execute(query.replace("?", "%s"), values))
        except StoreError as error:
            self.on_fault(str(error))
            raise NotLeadingError(str(error)) from error

    def close(self) -> None:
        """Close the connection."""
        self._link.close()


def is_there(url: str) -> bool:
    """Tell whether there is a store; StoreAwayError when the database does not answer."""
    db = open_connection(url)
    try:
        return version_of(db) > 0
    finally:
        db.close()


def _watch(db: sqlite3.Connection) -> None:
    """Create triggers that record the key of each changed row of the copy."""
    db.execute("CREATE TEMP TABLE changed (place, key_1, key_2, UNIQUE (place, key_1, key_2))")
    for table in TABLES:
        for event, rows in (("INSERT", ("NEW",)), ("UPDATE", ("OLD", "NEW")), ("DELETE", ("OLD",))):
            if table is EVENTS and event != "INSERT":
                continue  # events are never changed, and deleted from the copy once written
            notes = "".join(
                f"INSERT OR IGNORE INTO changed VALUES ('{table.name}', {_keys_of(table, row)}); "
                for row in rows
            )
            db.execute(
                f"CREATE TEMP TRIGGER {table.name}_{event} AFTER {event} ON main.{table.name} "
                f"BEGIN {notes} END"
            )


def _keys_of(table: Table, row: str) -> str:
    keys = [f"{row}.{key}" for key in table.keys]
    return ", ".join([*keys, "''"][:2])


def _changes(db: sqlite3.Connection) -> list[tuple[str, list[list[Any]]]]:
    """Return the changed rows as statements with a list of values for each column."""
    work: list[tuple[str, list[list[Any]]]] = []
    places = db.execute("SELECT DISTINCT place FROM temp.changed ORDER BY place").fetchall()
    for (place,) in places:
        table = _BY_NAME[place]
        match = f"c.place = '{place}' AND c.key_1 = t.{table.keys[0]}"
        if len(table.keys) > 1:
            match += f" AND c.key_2 = t.{table.keys[1]}"
        columns = ", ".join(f"t.{column}" for column in table.columns)
        found = db.execute(
            f"SELECT {columns} FROM temp.changed AS c CROSS JOIN main.{place} AS t ON {match}"
        ).fetchall()
        gone = db.execute(
            f"SELECT c.key_1, c.key_2 FROM temp.changed AS c WHERE c.place = '{place}' "
            f"AND NOT EXISTS (SELECT 1 FROM main.{place} AS t WHERE {match})"
        ).fetchall()
        if gone:
            keys = [row[: len(table.keys)] for row in gone]
            work.append((deletion(table, where=_LED), columns_of(table, table.keys, keys)))
        if found:
            work.append((upsert(table, where=_LED), columns_of(table, tuple(table.columns), found)))
    return work
