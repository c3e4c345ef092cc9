"""The session settings that all programs rely on with PostgreSQL: set, or refused with a message.

A role or a database may have settings of its own (`ALTER ROLE … SET …`), a pooler may give one
session to several clients, and an address may be a standby's. The error of the first statement
that fails explains none of these, and some of them store wrong values without an error.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import Any

import psycopg
from psycopg import errors as pg

from collector.runtime.postgres.connection import BoundedConnection

Db = psycopg.Connection[tuple[Any, ...]]

ENCODING = "UTF8"
STANDBY_SECONDS = 2.0
"""A commit that has waited this long for a synchronous standby counts as blocked."""
PROBE_SECONDS = 2.0
PROBES = 3
_RELIED_ON = {
    # The formats that the driver expects.
    "client_encoding": ENCODING,
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "array_nulls": "on",
    "standard_conforming_strings": "on",
    "transform_null_equals": "off",
    # A warning tells of a commit that is not on the standby.
    "client_min_messages": "warning",
    # Transactions see what others committed, and rows that are hidden from us are an error.
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "row_security": "off",
    "jit": "off",
}
_SINCE = {
    "idle_session_timeout": (140_000, "0"),
    "transaction_timeout": (170_000, "0"),
}
"""Settings that older servers do not have, with the version since when."""
_DURABLE = (
    "SELECT set_config('synchronous_commit', 'on', false) "
    "WHERE current_setting('synchronous_commit') <> 'remote_apply'"
)
_NOT_KNOWN = (pg.UndefinedObject, pg.FeatureNotSupported, pg.InvalidParameterValue)
_FACTS = (
    "SELECT current_setting('server_encoding'), pg_is_in_recovery(), "
    "current_setting('transaction_read_only')"
)
# Sessions of other users are left out: they may ask for more than a flushed log.
_WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE wait_event = 'SyncRep' AND usename = session_user AND datname = current_database()
        AND pid <> pg_backend_pid() AND clock_timestamp() - query_start > %s * interval '1 second'
"""


class UnfitServerError(psycopg.NotSupportedError):
    """The server or database would store wrong values; an operator has to change it."""


class NotPrimaryError(psycopg.OperationalError):
    """The server is a standby, or the database is read-only."""


class StandbyAwayError(psycopg.OperationalError):
    """Commits wait for a synchronous standby, so another one would wait as well."""


def prepare(
    db: Db,
    *,
    schema: str,
    answer_seconds: float,
    lock_seconds: float,
    idle_seconds: float,
) -> None:
    """Set what a session relies on, as far as the engine knows it.

    Commits wait for what the server's own `synchronous_commit = on` waits for, or for more where
    that is `remote_apply`. Raises UnfitServerError and NotPrimaryError.
    """
    settings = _RELIED_ON | {
        "search_path": schema,
        "lock_timeout": str(int(lock_seconds * 1000)),
        "idle_in_transaction_session_timeout": str(int(idle_seconds * 1000)),
        "statement_timeout": str(int(answer_seconds * 900)),
    }
    version = db.info.server_version
    settings |= {name: value for name, (since, value) in _SINCE.items() if version >= since}
    _set(db, settings)
    with suppress(*_NOT_KNOWN):
        db.execute(_DURABLE)
    refuse_unfit(db)


def _set(db: Db, settings: Mapping[str, str]) -> None:
    """Set all in one statement, or one by one where the engine does not know each."""
    calls = ", ".join(["set_config(%s, %s, false)"] * len(settings))
    values = [text for setting in settings.items() for text in setting]
    try:
        db.execute(f"SELECT {calls}", values)
    except _NOT_KNOWN:
        for name, value in settings.items():
            with suppress(*_NOT_KNOWN):
                db.execute("SELECT set_config(%s, %s, false)", (name, value))


def look_up_by_index(db: Db) -> None:
    """Have a session read no table whole where an index has what is looked for.

    The plan of a statement that runs often is made once, maybe while its tables are empty and to
    read them whole costs nothing. It is kept until the server's statistics change, which may be
    after minutes.
    """
    with suppress(*_NOT_KNOWN):
        db.execute("SELECT set_config('enable_seqscan', 'off', false)")


def allow_scans(db: Db) -> None:
    """Undo `look_up_by_index` until the transaction ends."""
    with suppress(*_NOT_KNOWN):
        db.execute("SELECT set_config('enable_seqscan', 'on', true)")


def refuse_unfit(db: Db) -> None:
    """Raise UnfitServerError for another encoding, NotPrimaryError where nothing can be stored."""
    try:
        found = db.execute(_FACTS).fetchone()
    except pg.UndefinedFunction:  # another engine
        return
    encoding, is_standby, read_only = found or (ENCODING, False, "off")
    if encoding != ENCODING:
        raise UnfitServerError(
            f"the database's encoding is {encoding}, and names are stored as UTF-8: make another "
            "one with CREATE DATABASE name TEMPLATE template0 ENCODING 'UTF8', and name that"
        )
    if is_standby:
        raise NotPrimaryError(
            "this server is a standby and takes no writes: name the primary, or all hosts, each "
            "with its port, and target_session_attrs=read-write (docs/scale.md)"
        )
    if read_only == "on":
        raise NotPrimaryError(
            "the database takes no writes: default_transaction_read_only is on for the server, "
            "the database or the role. RESET it there"
        )


def refuse_pooled(db: Db, connect: Callable[[], BoundedConnection]) -> None:
    """Raise UnfitServerError where a pooler gives our session to others between transactions.

    `connect` opens another connection, for a moment, where there is a pooler at all.
    """
    is_direct = db.info.backend_pid == _pid_of(db)
    if not is_direct and _is_shared(db, connect):
        raise UnfitServerError(
            "a pooler before the server gives one session to several clients (PgBouncer: pool_mode "
            "= transaction or statement), and what a session relies on would be another one's: set "
            "pool_mode = session for this database, or name the server itself"
        )


def _is_shared(db: Db, connect: Callable[[], BoundedConnection]) -> bool:
    """Tell whether two clients at once are seen to have one session, or one client several."""
    try:
        with closing(connect()) as other:
            other.answer_seconds = PROBE_SECONDS
            for _ in range(PROBES):
                ours = {_pid_of(db), _pid_of(db)}
                other.execute("BEGIN")
                theirs = _pid_of(other)
                ours.add(_pid_of(db))
                other.execute("ROLLBACK")
                if len(ours) > 1 or theirs in ours:
                    return True
    except pg.ProtocolViolation:  # there are no transactions in PgBouncer's statement mode
        return True
    except psycopg.OperationalError:  # the pooler has no further session: each has its own
        return False
    return False


def _pid_of(db: Db) -> int:
    row = db.execute("SELECT pg_backend_pid()").fetchone()
    return int(row[0]) if row else 0


def refuse_while_standby_is_away(db: Db) -> None:
    """Raise StandbyAwayError while sessions of this user wait for a synchronous standby.

    A session whose client gave up goes on waiting on the server. Were each try to add one, there
    would soon be no connection left.
    """
    if waiting := commits_waiting(db):
        raise StandbyAwayError(
            f"the synchronous standby does not confirm commits ({waiting} of ours wait): start it, "
            "or take it out of synchronous_standby_names"
        )


def commits_waiting(db: Db) -> int:
    """Return how many sessions of this user have waited for a synchronous standby for seconds."""
    try:
        row = db.execute(_WAITING, (STANDBY_SECONDS,)).fetchone()
    except (pg.UndefinedTable, pg.UndefinedColumn):  # another engine
        return 0
    return int(row[0]) if row else 0


def server_of(db: Db) -> tuple[str, str]:
    """Return a value that changes with a restart, a failover, or a new database.

    For an engine that does not tell, it differs on each call.
    """
    try:
        row = db.execute(
            "SELECT pg_postmaster_start_time()::text, oid::text FROM pg_database "
            "WHERE datname = current_database()"
        ).fetchone()
    except (pg.UndefinedFunction, pg.UndefinedTable):
        row = None
    return (str(row[0]), str(row[1])) if row else ("", secrets.token_hex(8))
