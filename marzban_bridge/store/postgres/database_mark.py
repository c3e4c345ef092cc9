"""In which place a store in PostgreSQL is: server, timeline, database and tables.

A standby that takes over begins a new timeline; a backup that is restored lies in new tables. Who
finds a store in another place than it was written in knows that commits may be missing.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from marzban_bridge.store.postgres.link import Db

# The timeline is the one that is written now: that of the last checkpoint is a while behind.
_QUERY = """
    SELECT s.system_identifier || ':' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
        || ':' || d.oid || ':' || to_regclass('lease')::oid,
        coalesce(current_setting('synchronous_standby_names', true), '') <> ''
    FROM pg_control_system() AS s, pg_database AS d WHERE d.datname = current_database()
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store is now."""

    mark: str
    waits_for_standby: bool
    """Whether a commit is on a standby as well before it is answered."""


def place_of(db: Db) -> Place | None:
    """Return where the store is; None where the server does not tell.

    An engine that only speaks PostgreSQL's protocol may not know the functions, and a server may
    not let its users call them. Raises what psycopg raises where the server cannot be asked, and
    OperationalError at a standby.
    """
    try:
        row = db.execute(_QUERY).fetchone()
    except psycopg.OperationalError:
        raise
    except psycopg.Error:
        return None
    return Place(*row) if row and row[0] is not None else None
