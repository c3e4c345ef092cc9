"""A PostgreSQL primary with a standby that follows it, and a failover that loses commits."""

from __future__ import annotations

import time

import psycopg

from tests.support.engines.postgres_server import DEADLINE_SECONDS, PASSWORD, PostgresServer


class PostgresPair:
    """Two servers on loopback: what the first one commits comes to the second one a little later.

    Asynchronous, unless the test sets `synchronous_standby_names` at the primary.
    """

    def __init__(self) -> None:
        self.primary = PostgresServer()
        self.primary.start()
        self.standby = PostgresServer(copy_of=self.primary)
        self.standby.start()
        self.until_followed()

    def url(self, database: str) -> str:
        """Return how to reach whichever of the two may be written, each host with its port."""
        hosts = f"127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}"
        return f"postgresql://owner:{PASSWORD}@{hosts}/{database}?target_session_attrs=read-write"

    def until_followed(self) -> None:
        """Wait until the standby has all that is committed at the primary now."""
        ((wanted,),) = self._at(self.primary, "SELECT pg_current_wal_lsn()")
        deadline = time.monotonic() + DEADLINE_SECONDS
        query = f"SELECT coalesce(pg_last_wal_replay_lsn() >= '{wanted}', false)"
        while self._at(self.standby, query) != [(True,)]:
            assert time.monotonic() < deadline, self.standby.log.read_text()[-2000:]
            time.sleep(0.02)

    def detach(self) -> None:
        """Have the standby hear no more of the primary: what is committed from now on is lost."""
        self.until_followed()
        self.standby.stop()

    def fail_over(self) -> None:
        """Kill the primary, and have the standby take its place with what it has."""
        self.primary.crash()
        self.standby.start()
        self._at(self.standby, "SELECT pg_promote()")

    def close(self) -> None:
        """End both and remove their files."""
        self.standby.close()
        self.primary.close()

    @staticmethod
    def _at(server: PostgresServer, query: str) -> list[tuple[object, ...]]:
        with psycopg.connect(server.url("postgres"), autocommit=True) as db:
            return db.execute(query).fetchall()
