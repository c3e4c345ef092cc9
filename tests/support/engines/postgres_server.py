"""A throw-away PostgreSQL server: one for a test session, or one that a test may kill."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

from tests.support.ending import ending_on_failure
from tests.support.ports import free_port

PASSWORD = "a-postgres-password-of-the-tests"
DEADLINE_SECONDS = 120
_BINARIES = sorted(
    Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4])
)
_NUMBERS = itertools.count()
_OURS = """
    nspname !~ '^pg_' AND nspname NOT IN ('public', 'information_schema') AND NOT EXISTS (
        SELECT 1 FROM pg_depend AS e
        WHERE e.classid = 'pg_namespace'::regclass AND e.objid = n.oid AND e.deptype = 'e'
    )
"""
"""Selects schemas `n` that are neither the server's nor an extension's."""
_STATE = f"""
SELECT datdba::regrole, datacl, datallowconn, datconnlimit, datcollate, encoding,
    (SELECT string_agg(setconfig::text, ',' ORDER BY setconfig::text) FROM pg_db_role_setting
        WHERE setdatabase = d.oid),
    (SELECT string_agg(nspname, ',') FROM pg_namespace AS n WHERE {_OURS}),
    (SELECT nspacl FROM pg_namespace WHERE nspname = 'public'),
    (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace),
    (SELECT count(*) FROM pg_extension), (SELECT count(*) FROM pg_largeobject_metadata)
FROM pg_database AS d WHERE datname = current_database()
"""
"""What tests change of a database, as one row."""


def binaries() -> Path | None:
    """Return the folder with the server's programs; None where there are none."""
    if _BINARIES:
        return _BINARIES[-1].parent
    found = shutil.which("postgres")
    return Path(found).parent if found and shutil.which("initdb") else None


def describe() -> str | None:
    """Say which PostgreSQL the tests run on; None where there is none."""
    folder = binaries()
    if folder is None:
        return None
    command = [folder / "postgres", "--version"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"[0-9.]+", told.stdout)
    return f"PostgreSQL {found[0] if found else '?'}, {folder}"


class PostgresServer:
    """A server with a cluster of its own, or a standby of another, on loopback, with a password."""

    def __init__(self, *, is_durable: bool = False, copy_of: PostgresServer | None = None) -> None:
        folder = binaries()
        assert folder is not None
        self._folder = folder
        self._is_durable = is_durable
        self._user = _unprivileged()
        self.home = Path(tempfile.mkdtemp(prefix="pg-"))
        self.data = self.home / "data"
        self.log = self.home / "server.log"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._lent: list[str] = []
        self._returned: list[str] = []
        self._as_new: tuple[object, ...] | None = None
        password = self.home / "password"
        password.write_text(PASSWORD)
        if self._user:
            for path in (self.home, password):
                shutil.chown(path, self._user)
        if copy_of is not None:  # a standby of it, which must let it in for replication
            self._run(
                *("pg_basebackup", "-D", str(self.data), "-d", copy_of.url("postgres")),
                *("-R", "-X", "stream", "--checkpoint=fast", "--no-sync"),
            )
            return
        self._run(
            *("initdb", "-D", str(self.data), "-U", "owner", f"--pwfile={password}"),
            *("-A", "md5", "-E", "UTF8", "--locale=C", "--no-sync"),
        )

    @property
    def pid(self) -> int:
        """The postmaster."""
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def _as_user(self, name: str, *arguments: str) -> list[str]:
        command = [str(self._folder / name), *arguments]
        if not self._user:
            return command
        return [
            "setpriv",
            f"--reuid={self._user}",
            f"--regid={self._user}",
            "--clear-groups",
            *command,
        ]

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            self._as_user(name, *arguments),
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def start(self, *options: str) -> None:
        """Start it, if it does not run, and wait until it answers."""
        if self._process is not None:
            return
        speed = () if self._is_durable else ("-c", "fsync=off", "-c", "full_page_writes=off")
        arguments = (
            *("-D", str(self.data), "-p", str(self.port), "-k", str(self.home)),
            *("-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200"),
            *("-c", "shared_buffers=128MB", *speed, *options),
        )
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._as_user("postgres", *arguments), cwd=self.home, stdout=log, stderr=log
            )
        with ending_on_failure(self.crash):
            self._until_it_answers(self._process)

    def _until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=2).close()
            except psycopg.OperationalError:
                code = process.poll()
                assert code is None, f"PostgreSQL ended with {code}: {self.log.read_text()[-2000:]}"
                assert time.monotonic() < deadline, self.log.read_text()[-2000:]
                time.sleep(0.05)
            else:
                return

    def allow(self, network: str) -> None:
        """Let clients of a network in, from the next start with `listen_addresses` on."""
        with (self.data / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {network} md5\n")

    def crash(self) -> None:
        """End it at once, without a checkpoint: as after a power loss, but for the kernel's cache."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        """End it in good order, with its clients' connections."""
        self._end(signal.SIGINT)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        try:
            os.kill(self.pid, number)
        except OSError:  # it has ended, or has not got as far as its file
            self._process.kill()
        self._process.wait(DEADLINE_SECONDS)
        self._process = None

    def close(self) -> None:
        """End it and remove its files."""
        self.crash()
        shutil.rmtree(self.home, ignore_errors=True)

    def url(
        self,
        database: str,
        *,
        port: int | None = None,
        host: str = "127.0.0.1",
        login: str | None = None,
    ) -> str:
        """Return how to reach a database, directly or through a proxy's port.

        `login` is a role and its password, `role:password`; else it is the one that owns all.
        """
        login = login or f"owner:{PASSWORD}"
        return f"postgresql://{login}@{host}:{port or self.port}/{database}"

    def nodes(self, database: str) -> list[str]:
        """Return a URL of a database for each server that has a part of it."""
        return [self.url(database)]

    def new_database(self) -> str:
        """Return the name of an empty database: made now, or given back by a test and emptied now."""
        while self._returned:
            name = self._returned.pop()
            if self._is_emptied(name):
                break
        else:
            name = self._make_database()
        self._prepare(name)
        self._lent.append(name)
        return name

    def _make_database(self, options: str = "") -> str:
        name = f"ledger_{next(_NUMBERS)}_{secrets.token_hex(4)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as db:
            db.execute(f"CREATE DATABASE {name} {options}")
        return name

    def _prepare(self, name: str) -> None:
        """Make a database, which is new or emptied, one that tests can use."""

    def new_dictionary_database(self) -> str:
        """Make an empty database whose text is ordered as in a dictionary; return its name."""
        return self._make_database("TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en'")

    def take_back(self) -> None:
        """Lend the databases again that were lent; what has them open may close them until then."""
        self._returned += self._lent
        self._lent.clear()

    def _is_emptied(self, name: str) -> bool:
        try:
            state = self._emptied(name)
        except psycopg.Error:  # a test has renamed, dropped or broken it
            return False
        if self._as_new is None:
            unused = self._make_database()
            self._prepare(unused)
            self._as_new = self._emptied(unused)
        return state == self._as_new

    def _emptied(self, name: str) -> tuple[object, ...] | None:
        """Remove what is in a database; return what is left that tests change."""
        with psycopg.connect(self.url(name), autocommit=True) as db:
            db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() "
                "AND backend_type = 'client backend'"
            )
            found = db.execute(f"SELECT nspname FROM pg_namespace AS n WHERE {_OURS}").fetchall()
            for (schema,) in found:
                db.execute(f'DROP SCHEMA "{schema}" CASCADE')
            return db.execute(_STATE).fetchone()


def _unprivileged() -> str | None:
    """Return as whom the server runs: it refuses to be root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise AssertionError("there is nobody to run PostgreSQL as")
