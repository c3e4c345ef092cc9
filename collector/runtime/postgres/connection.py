"""Connecting to PostgreSQL, for all programs: bounded in time, and without a password in messages.

A server that is frozen, or a network that is cut, has to be noticed within seconds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from typing import Any, Self, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

# The driver logs each try to connect; the programs log each change.
logging.getLogger("psycopg").setLevel(logging.ERROR)

T = TypeVar("T")

CONNECT_SECONDS = 3
TAKES_WRITES = "read-write"
"""What is demanded of a server by `target_session_attrs`, where several hosts are named."""
ANSWER_SECONDS = 10.0
"""How long one statement may take where a request waits for its commit."""
_DEFAULTS = {
    "connect_timeout": str(CONNECT_SECONDS),
    # A network that is cut is noticed within seconds, waiting for an answer or not.
    "tcp_user_timeout": "5000",
    "keepalives_idle": "3",
    "keepalives_interval": "2",
    "keepalives_count": "2",
}


def conninfo_of(url: str, *, application: str) -> str:
    """Return how to connect to a `postgresql://` URL; ValueError for a malformed one.

    Of several hosts it is the one that takes writes, unless the URL says otherwise.
    """
    given = _read(url)
    defaults = _DEFAULTS | {"application_name": application}
    if "," in given.get("host", "") + given.get("hostaddr", ""):
        defaults["target_session_attrs"] = TAKES_WRITES
    return make_conninfo("", **(defaults | given | {"client_encoding": "UTF8"}))


def hosts_of(conninfo: str) -> list[str]:
    """Return a connection string for each host of one, in their order; ports as libpq has them."""
    given = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
    lists = {name: given[name].split(",") for name in ("host", "hostaddr", "port") if name in given}
    count = max(1, *(len(lists.get(name, ())) for name in ("host", "hostaddr")))
    found = []
    for number in range(count):
        # One port is that of all hosts; an empty one is the default.
        own = {name: each[number if len(each) > 1 else 0] for name, each in lists.items()}
        found.append(make_conninfo("", **(given | own)))
    return found


def name_of(url: str) -> str:
    """Return a URL without password and options, for messages; ValueError as above."""
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
        raise ValueError(  # not repeated: there may be a password in it
            "expected postgresql://USER:PASSWORD@HOST:5432/DATABASE, with what is not "
            "a letter or digit in the password written as %XX"
        )
    return given


def text_of(error: Exception) -> str:
    """Return what an error says, on one line: the server's own words where they are.

    The driver's advice, and the failures of further addresses, are left out.
    """
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    lines = [" ".join(line.split()) for line in (primary or str(error)).splitlines()]
    said = [line for line in lines if line] or [type(error).__name__]
    text = said[0]
    for line in said[1:]:
        if not text.endswith(":"):
            break
        text = f"{text} {line}"
    return text.rstrip(": ") or type(error).__name__


def is_out_of_step(error: Exception) -> bool:
    """Tell whether the driver could not make out an answer; what it answers is unknown.

    A pooler whose server ends in the middle of a statement adds an error to the server's own.
    """
    return isinstance(error, psycopg.InternalError) and error.sqlstate is None


class BoundedConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that is closed when the server does not answer in time.

    A server that is frozen, or a proxy before it, still acknowledges packets: no timeout of TCP or
    of the server notices.
    """

    answer_seconds = ANSWER_SECONDS

    def __init__(self, pgconn: Any) -> None:
        super().__init__(pgconn)
        self._is_unconfirmed = False
        self.add_notice_handler(self._note)

    @classmethod
    def connect(cls, conninfo: str = "", **options: Any) -> Self:
        """Connect; of several hosts to the first that takes writes, where that is demanded.

        libpq believes what a host says of itself at the beginning, and a pooler says what was so
        when it first reached its server, which was a standby or is one now: so each is asked here.
        OperationalError where none takes writes.
        """
        hosts = hosts_of(conninfo)
        demanded = conninfo_to_dict(conninfo).get("target_session_attrs")
        if len(hosts) == 1 or demanded != TAKES_WRITES:
            return super().connect(conninfo, **options)
        refusal = psycopg.OperationalError("no host is named")
        for host in hosts:
            try:
                alone = make_conninfo(host, target_session_attrs="any")
                db = super().connect(alone, **options)
            except psycopg.OperationalError as error:
                refusal = error
                continue
            try:
                if db.takes_writes():
                    return db
                refusal = psycopg.OperationalError("none of the hosts takes writes now")
            except psycopg.OperationalError as error:
                refusal = error
            db.close()
        raise refusal

    def takes_writes(self) -> bool:
        """Ask the server whether it is neither a standby nor set to be read-only."""
        answer_seconds, self.answer_seconds = self.answer_seconds, CONNECT_SECONDS
        try:
            row = self.execute("SHOW transaction_read_only").fetchone()
        finally:
            self.answer_seconds = answer_seconds
        return row is not None and row[0] == "off"

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """Wait for an answer; without one, close the connection and raise OperationalError.

        The same for a commit that is answered though no standby has it: the wait for the standby,
        which the server shows as a query, was canceled.
        """
        result = super().wait(self._bounded(gen), *args, **kwargs)
        if self._is_unconfirmed:
            self.close()
            raise psycopg.OperationalError(
                "a commit is on no synchronous standby: waiting for one was canceled on the server"
            )
        return result

    def _note(self, told: psycopg.errors.Diagnostic) -> None:
        if told.source_function == "SyncRepWaitForLSN":
            self._is_unconfirmed = True

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
