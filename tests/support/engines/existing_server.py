"""A PostgreSQL that runs already, in place of one that the tests start: another engine's, perhaps.

    TEST_POSTGRES_URL=postgresql://owner:PASSWORD@127.0.0.1:5433/postgres uv run --group dev pytest \
        tests/contract

Its role may create databases and roles, and the server is on this machine. `TEST_POSTGRES_PREPARE`
is a command that is run with the URL of each new database as its last argument, before a test has
it: what makes and distributes the tables, on an engine of several machines. Where its nodes are
servers that can be asked, `TEST_POSTGRES_NODES` has the URLs of the others, divided by spaces: tests
look there, too, for what a server counts and for sessions that wait, and copy a database on each.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from typing import NoReturn
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from tests.support.engines.postgres_server import PostgresServer

URL, PREPARE, NODES = "TEST_POSTGRES_URL", "TEST_POSTGRES_PREPARE", "TEST_POSTGRES_NODES"
DEFAULT_PORT = 5432
OF_OUR_OWN = frozenset({"home", "data", "log"})
"""What a server has that the tests have started."""


def named() -> str | None:
    """Return the URL of the server that the tests are to use; None if they start one."""
    return os.environ.get(URL) or None


def describe() -> str | None:
    """Say which server the tests are to use; None if they start one."""
    url = named()
    if url is None:
        return None
    place = urlsplit(url)
    return f"the one at {place.hostname}:{place.port or DEFAULT_PORT} ({URL})"


class ExistingServer(PostgresServer):
    """A server that is not ours: databases are made and dropped on it, and no more is done to it.

    A test that needs its files or its process is skipped.
    """

    def __init__(self, url: str, *, prepare: str = "", nodes: str = "") -> None:
        self._url = urlsplit(url)
        self._nodes = [urlsplit(each) for each in nodes.split()]
        self._command = shlex.split(prepare)
        self._made: list[str] = []
        self._lent: list[str] = []
        self._returned: list[str] = []
        self._as_new: tuple[object, ...] | None = None
        self._process = None
        self.port = self._url.port or DEFAULT_PORT

    def url(
        self,
        database: str,
        *,
        port: int | None = None,
        host: str = "127.0.0.1",
        login: str | None = None,
    ) -> str:
        """Return how to reach a database, directly or through a proxy's port."""
        user = login or self._url.netloc.rpartition("@")[0]
        place = f"{user}@{host}:{port or self.port}"
        return urlunsplit(self._url._replace(netloc=place, path=f"/{database}"))

    def nodes(self, database: str) -> list[str]:
        """Return a URL of a database for each server that has a part of it."""
        others = [urlunsplit(each._replace(path=f"/{database}")) for each in self._nodes]
        return [self.url(database), *others]

    def _make_database(self, options: str = "") -> str:
        name = super()._make_database(options)
        self._made.append(name)
        return name

    def _prepare(self, name: str) -> None:
        if self._command:
            subprocess.run([*self._command, self.url(name)], check=True)

    def start(self, *options: str) -> None:
        """Do nothing: it runs."""

    def close(self) -> None:
        """Drop the databases that were made."""
        for url in self.nodes("postgres"):
            with psycopg.connect(url, autocommit=True) as db:
                for name in self._made:
                    with contextlib.suppress(psycopg.Error):  # a test has renamed or dropped it
                        db.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        self._made.clear()

    def __getattr__(self, name: str) -> NoReturn:
        """Skip the test: what it needs is only there of a server that the tests have started."""
        if name not in OF_OUR_OWN:
            raise AttributeError(name)
        pytest.skip(f"needs `{name}` of a server that the tests have started ({URL} is set)")
