"""Creates tables while other processes may be creating the same ones."""

from __future__ import annotations

import time
from collections.abc import Callable

from psycopg import errors as pg

from collector.runtime.postgres.session import Db

TRIES = 40
PAUSE_SECONDS = 0.05
_CREATED_ELSEWHERE = (
    pg.UniqueViolation,
    pg.DuplicateTable,
    pg.DuplicateColumn,
    pg.DuplicateObject,
    pg.DuplicateSchema,
    pg.SerializationFailure,
    pg.DeadlockDetected,
    pg.InternalError_,
)
"""What a statement fails with when two processes create the same thing at once."""


def create_beside_others(
    attempt: Callable[[], None], *, what: str, schema: str, error: type[Exception]
) -> None:
    """Run `attempt`, which creates tables, again while it collides with another process.

    Raises `error`, which names `what`, after `TRIES` collisions, and where the user may not create
    `schema` or its tables. Other errors of `attempt` pass through.
    """
    for _ in range(TRIES):
        try:
            attempt()
        except _CREATED_ELSEWHERE:
            time.sleep(PAUSE_SECONDS)
        except pg.InsufficientPrivilege as refusal:
            raise error(
                f"{what}: {refusal.diag.message_primary}: its user must own the database or a "
                f"schema named {schema}"
            ) from refusal
        else:
            return
    raise error(f"{what} could not be prepared beside other processes: start again")


def create_schema(db: Db, schema: str) -> None:
    """Create a schema where there is none; its user need not own the database where there is."""
    query = "SELECT 1 FROM information_schema.schemata WHERE schema_name = %s"
    if db.execute(query, (schema,)).fetchone() is None:
        db.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
