"""In which place a store in PostgreSQL is: server, timeline, database and tables.

A standby that takes over begins a new timeline; a backup that is restored lies in new tables. Who
finds a store in another place than it was written in knows that commits may be missing.
"""

from __future__ import annotations

import psycopg

from marzban_bridge.postgres_link import Db

# The timeline is the one that is written now: that of the last checkpoint is a while behind.
_QUERY = """
    SELECT s.system_identifier || ':' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
        || ':' || d.oid || ':' || to_regclass('lease')::oid
    FROM pg_control_system() AS s, pg_database AS d WHERE d.datname = current_database()
"""


def mark_of(db: Db) -> str | None:
    """Return what changes with the place; None where the server does not tell.

    An engine that only speaks PostgreSQL's protocol may not know the functions, a server may not
    let its users call them, and a standby has no timeline of its own. Raises what psycopg raises
    where the server cannot be asked.
    """
    try:
        row = db.execute(_QUERY).fetchone()
    except psycopg.OperationalError:
        raise
    except psycopg.Error:
        return None
    return str(row[0]) if row and row[0] is not None else None
