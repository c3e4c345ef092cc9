"""Creates tables while other processes may be creating the same ones."""

from __future__ import annotations

import time
from collections.abc import Callable

from psycopg import errors as pg

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


def create_beside_others(attempt: Callable[[], None]) -> bool:
    """Run `attempt` again while it collides with another process; return whether it succeeded.

    False after `TRIES` collisions. Other errors of `attempt` pass through.
    """
    for _ in range(TRIES):
        try:
            attempt()
        except _CREATED_ELSEWHERE:
            time.sleep(PAUSE_SECONDS)
        else:
            return True
    return False
