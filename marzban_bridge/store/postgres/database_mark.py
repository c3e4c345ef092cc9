"""Identifies the place of a store in PostgreSQL: server, timeline, database and tables.

A standby that takes over begins a new timeline; a restored backup has new tables. If the place is
not the one where the store was last written, commits may be missing.
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
    """The place of a store, and how it commits."""

    mark: str
    waits_for_standby: bool
    """Whether a commit waits for a synchronous standby."""


def place_of(db: Db) -> Place | None:
    """Return the store's place; None where the server does not tell.

    An engine that only speaks PostgreSQL's protocol may lack the functions, and a server may forbid
    them. Raises psycopg's errors where the server does not answer, and OperationalError on a
    standby.
    """
    try:
        row = db.execute(_QUERY).fetchone()
    except psycopg.OperationalError:
        raise
    except psycopg.Error:
        return None
    return Place(*row) if row and row[0] is not None else None
