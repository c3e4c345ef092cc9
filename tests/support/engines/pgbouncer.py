"""A PgBouncer before a PostgreSQL server of the tests, in a pool mode of the test's choice."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

from tests.support.ending import ending_on_failure
from tests.support.engines.postgres_server import PASSWORD, PostgresServer
from tests.support.ports import free_port

DEADLINE_SECONDS = 120
BINARY = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class PgBouncer:
    """A pooler on loopback; `mode` is its `pool_mode`."""

    def __init__(self, server: PostgresServer, mode: str, *options: str) -> None:
        assert BINARY is not None
        self.home = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
        self.port = free_port()
        users, settings = self.home / "users", self.home / "pgbouncer.ini"
        users.write_text(f'"owner" "{PASSWORD}"\n')
        lines = (
            *("[databases]", f"* = host=127.0.0.1 port={server.port}", "[pgbouncer]"),
            *("listen_addr = 127.0.0.1", f"listen_port = {self.port}", "unix_socket_dir ="),
            *("auth_type = scram-sha-256", f"auth_file = {users}", f"pool_mode = {mode}"),
            *options,
        )
        settings.write_text("\n".join(lines))
        command, self._log = [BINARY, str(settings)], self.home / "pgbouncer.log"
        if os.geteuid() == 0:  # it refuses to be root
            for path in (self.home, users, settings):
                shutil.chown(path, _unprivileged())
            command[1:1] = ["-u", _unprivileged()]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=self.home, stdout=log, stderr=log)
        with ending_on_failure(self.close):
            self._until_it_answers(server)

    def _until_it_answers(self, server: PostgresServer) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                psycopg.connect(server.url("postgres", port=self.port), connect_timeout=2).close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, self._log.read_text()[-2000:]
                assert time.monotonic() < deadline, self._log.read_text()[-2000:]
                time.sleep(0.05)
            else:
                return

    def close(self) -> None:
        """End it at once, with its clients' connections, and remove its files."""
        self._process.kill()
        self._process.wait(DEADLINE_SECONDS)
        shutil.rmtree(self.home, ignore_errors=True)


def _unprivileged() -> str:
    return next(each.pw_name for each in pwd.getpwall() if each.pw_name in {"postgres", "nobody"})
