"""Sums of usage that stay within the store's integers.

SQLite ends a sum beyond 2^63 with an error, and one user's total in the ledger may be 2^62. So the
upper and lower halves of the numbers are summed apart, and a sum beyond 2^62 is 2^62: more than any
quota, and no error that would stop the pass for all other users.
"""

from __future__ import annotations

MOST_BYTES = 2**62
_HALF_BITS = 32


def sum_of(column: str) -> str:
    """Return the SQL for the sum of a column, MOST_BYTES where it is more; 0 of no rows."""
    upper = f"sum(({column}) >> {_HALF_BITS})"
    lower = f"sum(({column}) & {2**_HALF_BITS - 1})"
    return (
        f"coalesce(CASE WHEN {upper} >= {MOST_BYTES >> _HALF_BITS} THEN {MOST_BYTES} "
        f"ELSE ({upper} << {_HALF_BITS}) + {lower} END, 0)"
    )


def bounded(amount_bytes: int) -> int:
    """Return an amount, MOST_BYTES where it is more."""
    return min(amount_bytes, MOST_BYTES)
