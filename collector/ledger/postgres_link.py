"""A connection to a PostgreSQL ledger: opened when needed, bounded in time, its faults translated.

Only plain SQL goes through it: no advisory locks, no notifications, nothing that an engine which
speaks PostgreSQL's protocol may lack. See docs/decisions/0012.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from collector.errors import (
    DiskFullError,
    LedgerUnavailableError,
    NotStoredError,
    SettingsError,
)

# The driver tells of each try to connect; we tell of each change.
logging.getLogger("psycopg").setLevel(logging.ERROR)

Db = psycopg.Connection[tuple[Any, ...]]
T = TypeVar("T")

SCHEMA = "traffic"
CONNECT_SECONDS = 3
ANSWER_SECONDS = 10.0
"""How long one statement may take, for whoever waits for a commit."""
PATIENT_ANSWER_SECONDS = 40.0
"""The same for what adds up, purges or checks, which nobody waits for."""
IDLE_MILLIS = 5000
"""A session that stands still within a transaction so long is ended by the server, and its locks
with it: a collector that was frozen holds nobody up for longer."""
MAX_TRIES = 8
_DEFAULTS = {
    "connect_timeout": str(CONNECT_SECONDS),
    "application_name": "traffic-collector",
    # A network that is cut is noticed within seconds, waiting for an answer or not.
    "tcp_user_timeout": "5000",
    "keepalives_idle": "3",
    "keepalives_interval": "2",
    "keepalives_count": "2",
}
_SETTINGS = (
    f"SET search_path = {SCHEMA}",
    "SET lock_timeout = '3s'",
    f"SET idle_in_transaction_session_timeout = {IDLE_MILLIS}",
    "SELECT set_config('synchronous_commit', 'on', false) "
    "WHERE current_setting('synchronous_commit') = 'off'",
    "SET jit = off",
)


def conninfo_of(url: str) -> str:
    """Return how to connect to a `postgresql://` URL; SettingsError for a malformed one."""
    return make_conninfo("", **(_DEFAULTS | _read(url)))


def name_of(url: str) -> str:
    """Return what people may see of a URL: no password, no options."""
    given = _read(url)
    user = f"{given['user']}@" if "user" in given else ""
    ports = given.get("port", "").split(",")
    hosts = given.get("host", "").split(",")
    if len(ports) < len(hosts):
        ports = ports * len(hosts)
    places = (f"{host}:{port}" if port else host for host, port in zip(hosts, ports, strict=False))
    return f"postgresql://{user}{','.join(places)}/{given.get('dbname', '')}"


def _read(url: str) -> dict[str, str]:
    try:
        found = conninfo_to_dict(url)
    except (psycopg.Error, ValueError):
        found = {}
    given = {name: str(value) for name, value in found.items() if value is not None}
    # A password that is not written as it should be is taken for a host, a port or a database.
    is_right = all(not port or port.isdigit() for port in given.get("port", "").split(","))
    if not given or not is_right or "@" in given.get("dbname", "") + given.get("host", ""):
        raise SettingsError(  # not repeated: there may be a password in it
            "LEDGER_URL: expected postgresql://USER:PASSWORD@HOST:5432/DATABASE, with what is not "
            "a letter or digit in the password written as %XX"
        )
    return given


class BoundedConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that is closed when the server does not answer in time.

    A server that is frozen, or a proxy before it, still acknowledges packets: no timeout of TCP or
    of the server notices.
    """

    answer_seconds = ANSWER_SECONDS

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """Wait for an answer; OperationalError, and no connection any more, without one."""
        return super().wait(self._bounded(gen), *args, **kwargs)

    def _bounded(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        until_seconds = time.monotonic() + self.answer_seconds
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() >= until_seconds:
                    gen.close()
                    self.close()
                    raise psycopg.OperationalError(
                        f"the server has not answered for {self.answer_seconds:g} s"
                    )
                wanted = gen.send(ready)
        except StopIteration as end:
            value: T = end.value
            return value


def prepare_session(db: Db, *, seconds: float) -> None:
    """Set what each session needs, as far as the engine knows it; no statement takes longer."""
    for statement in (*_SETTINGS, f"SET statement_timeout = {int(seconds * 900)}"):
        with suppress(pg.UndefinedObject, pg.FeatureNotSupported, pg.InvalidParameterValue):
            db.execute(statement)


def open_connection(conninfo: str, *, is_patient: bool = False) -> Db:
    """Connect; raises what psycopg raises."""
    db = BoundedConnection.connect(conninfo, autocommit=True)
    db.answer_seconds = PATIENT_ANSWER_SECONDS if is_patient else ANSWER_SECONDS
    try:
        prepare_session(db, seconds=db.answer_seconds)
    except BaseException:
        db.close()
        raise
    return db


def translate(error: Exception, name: str) -> NotStoredError:
    """Return what an error of the server or of the way to it means for a sender."""
    if isinstance(error, NotStoredError):
        return error
    text = _text_of(error)
    if isinstance(error, pg.DiskFull):
        return DiskFullError(f"the disk under the ledger {name} is full: {text}")
    is_away = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    if is_away or isinstance(error, pg.ReadOnlySqlTransaction):
        return LedgerUnavailableError(f"the ledger {name} cannot be used now: {text}")
    return NotStoredError(f"the ledger {name} did not store: {text}")


def _text_of(error: Exception) -> str:
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return " ".join((primary or str(error) or type(error).__name__).split())


_FAULTS = (psycopg.Error, NotStoredError, UnicodeError, OverflowError)


class Link:
    """One connection, for one thread at a time: opened when it is used, and anew when lost."""

    def __init__(self, url: str, *, is_patient: bool = False) -> None:
        self._conninfo = conninfo_of(url)
        self._is_patient = is_patient
        self.name = name_of(url)
        self._guard = threading.Lock()
        self._db: Db | None = None
        self.connections = 0
        """How many there have been: what is remembered of one is not true of the next."""

    def connect(self) -> Db:
        """Return the open connection, which may be a new one; LedgerUnavailableError otherwise."""
        if self._db is None or self._db.closed:
            try:
                self._db = open_connection(self._conninfo, is_patient=self._is_patient)
            except _FAULTS as error:
                raise translate(error, self.name) from error
            self.connections += 1
        return self._db

    def ask(self, work: Callable[[Db], T]) -> T:
        """Run something whose statements need not be one transaction; raises as `run`."""
        return self.run(work, is_one=False)

    def run(self, work: Callable[[Db], T], *, is_one: bool = True) -> T:
        """Run something in one transaction, from its beginning again where it met another.

        Raises DiskFullError, LedgerUnavailable-
        Error or NotStoredError; a commit whose answer was lost may still have happened.
        """
        with self._guard:
            for tries in range(1, MAX_TRIES + 1):
                db = self.connect()
                try:
                    return run_in(db, work) if is_one else work(db)
                except (pg.SerializationFailure, pg.DeadlockDetected) as error:
                    if tries == MAX_TRIES:
                        raise translate(error, self.name) from error
                    time.sleep(random.uniform(0.002, 0.02) * tries)  # noqa: S311 - spreads retries
                except _FAULTS as error:
                    if db.closed or isinstance(error, pg.ReadOnlySqlTransaction):
                        self.drop()
                    raise translate(error, self.name) from error
            raise AssertionError("the last try returns or raises")

    def drop(self) -> None:
        """Close the connection; the next use opens another."""
        if self._db is not None:
            with suppress(psycopg.Error):
                self._db.close()
            self._db = None

    close = drop


def run_in(db: Db, work: Callable[[Db], T], *, is_snapshot: bool = False) -> T:
    """Run something in one transaction of a connection; a snapshot is all of one moment."""
    with db.transaction():
        if is_snapshot:
            db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        return work(db)
