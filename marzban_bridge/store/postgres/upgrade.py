"""Brings a store in PostgreSQL to the newest schema, as the leader and in one transaction.

It is read whole, migrated in memory as a file store is, and written back. A crash leaves the store
unchanged; afterwards bridges of the earlier version refuse to start.
"""

from __future__ import annotations

import logging

from marzban_bridge.store.postgres.lease import Lease
from marzban_bridge.store.postgres.link import (
    PATIENT_ANSWER_SECONDS,
    Db,
    PostgresLink,
)
from marzban_bridge.store.postgres.rows import columns_of, load, upsert
from marzban_bridge.store.postgres.schema import EVENTS, TABLES, VERSION, version_of

log = logging.getLogger(__name__)


def is_due(link: PostgresLink) -> bool:
    """Tell whether the store has an earlier schema."""
    return 0 < link.ask(version_of) < VERSION


def upgrade(url: str, lease: Lease) -> None:
    """Migrate the store whose lease this process holds; NotLeadingError if it was lost."""
    copy = load(url)
    link = PostgresLink(url, answer_seconds=PATIENT_ANSWER_SECONDS)

    def write(db: Db) -> None:
        for table in TABLES:
            columns = tuple(table.columns)
            rows = copy.execute(f"SELECT {', '.join(columns)} FROM {table.name}").fetchall()
            if table is not EVENTS:
                db.execute(f"DROP TABLE IF EXISTS {table.name}")
                db.execute(table.creation)
            if rows:
                db.execute(upsert(table), columns_of(table, columns, rows))
        db.execute("INSERT INTO version (number) VALUES (%s)", (VERSION,))
        # Last: the fence locks the row of the lease, so that it cannot be renewed until the commit.
        lease.extend(db)

    try:
        link.run(write)
    finally:
        link.close()
        copy.close()
    log.warning("the store was migrated to schema %d", VERSION)
