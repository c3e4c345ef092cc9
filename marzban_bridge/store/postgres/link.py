"""A connection to a bridge's store in PostgreSQL, with time limits and the bridge's errors.

Only plain SQL goes through it: no advisory locks, no notifications, nothing that an engine which
speaks PostgreSQL's protocol may lack.
"""

from __future__ import annotations

import psycopg

from collector.runtime.postgres import connection as postgres_connection
from collector.runtime.postgres import link as postgres_link
from collector.runtime.postgres import session as postgres_session
from collector.runtime.postgres.connection import BoundedConnection, text_of
from collector.runtime.postgres.session import UnfitServerError
from marzban_bridge.errors import SettingsError, StoreAwayError, StoreError

Db = postgres_link.Db

SCHEMA = "bridge"
ANSWER_SECONDS = 4.0
"""The time limit of a statement; the bridge's loops wait meanwhile, and its lease expires."""
PATIENT_ANSWER_SECONDS = 60.0
"""The time limit of a statement that reads or writes a whole store."""
LOCK_SECONDS = 2.0
FROZEN_SECONDS = 5.0
"""The time limit of an idle transaction; a frozen bridge loses its locks after it."""
FAULTS = (psycopg.Error, UnicodeError, OverflowError)


def name_of(url: str) -> str:
    """Return a URL without its password; SettingsError for a malformed one."""
    try:
        return postgres_connection.name_of(url)
    except ValueError as error:
        raise SettingsError(f"BRIDGE_STORE: {error}") from None


def open_connection(url: str, *, answer_seconds: float = ANSWER_SECONDS) -> BoundedConnection:
    """Connect; raises StoreAwayError, or StoreError where the store can never be used."""
    name = name_of(url)
    conninfo = postgres_connection.conninfo_of(url, application="marzban-bridge")
    try:
        db = BoundedConnection.connect(conninfo, autocommit=True)
    except FAULTS as error:
        raise translate(error, name) from error
    db.answer_seconds = answer_seconds
    try:
        postgres_session.prepare(
            db,
            schema=SCHEMA,
            answer_seconds=answer_seconds,
            lock_seconds=LOCK_SECONDS,
            idle_seconds=FROZEN_SECONDS,
        )
        postgres_session.refuse_pooled(
            db, lambda: BoundedConnection.connect(conninfo, autocommit=True)
        )
    except FAULTS as error:
        db.close()
        raise translate(error, name) from error
    return db


def translate(error: Exception, name: str) -> StoreError:
    """Return the bridge's error for an error of the server or of the connection."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, UnfitServerError):
        return StoreError(f"the store {name} cannot be used: {text_of(error)}")
    return StoreAwayError(f"the store {name} cannot be used now: {text_of(error)}")


class PostgresLink(postgres_link.PostgresLink):
    """One connection, for one thread at a time; opened at the first use, and again after a loss.

    With `is_of_one_server` it does not reconnect to a restarted or different server, which may have
    an older store, and raises StoreAwayError. With `only_reads` it works while commits wait for a
    standby. Raises StoreAwayError, or StoreError where the store can never be used.
    """

    def __init__(
        self,
        url: str,
        *,
        answer_seconds: float = ANSWER_SECONDS,
        is_of_one_server: bool = False,
        only_reads: bool = False,
    ) -> None:
        self._url = url
        self._answer_seconds = answer_seconds
        self._is_of_one_server = is_of_one_server
        self.name = name_of(url)
        self._server: tuple[str, str] | None = None
        super().__init__(
            self._at_the_server,
            translated=lambda error: translate(error, self.name),
            faults=FAULTS,
            only_reads=only_reads,
        )

    def _at_the_server(self) -> BoundedConnection:
        db = open_connection(self._url, answer_seconds=self._answer_seconds)
        if self._is_of_one_server:
            try:
                server = postgres_session.server_of(db)
            except FAULTS:
                db.close()
                raise
            if self._server not in {None, server}:
                db.close()
                raise StoreAwayError(
                    f"the server of the store {self.name} was restarted: the store is read again"
                )
            self._server = server
        return db
