"""Sums of usage that do not exceed the store's integers.

SQLite raises an error for a sum beyond 2^63, and one user's total in the ledger may be 2^62. So the
upper and lower halves of the numbers are summed separately, and a sum is capped at 2^62, which is
more than any quota. An error would stop the pass for all users.
"""

from __future__ import annotations

from collections.abc import Sequence

MOST_BYTES = 2**62
_HALF_BITS = 32


def sum_of(column: str) -> str:
    """Return the SQL for the sum of a column, capped at MOST_BYTES; 0 without rows."""
    upper = f"sum(({column}) >> {_HALF_BITS})"
    lower = f"sum(({column}) & {2**_HALF_BITS - 1})"
    return (
        f"coalesce(CASE WHEN {upper} >= {MOST_BYTES >> _HALF_BITS} THEN {MOST_BYTES} "
        f"ELSE ({upper} << {_HALF_BITS}) + {lower} END, 0)"
    )


def capped_sum(amounts: Sequence[int]) -> int:
    """Return what `sum_of` makes of a column with these amounts."""
    upper = sum(each >> _HALF_BITS for each in amounts)
    return MOST_BYTES if upper >= MOST_BYTES >> _HALF_BITS else sum(amounts)


def bounded(amount_bytes: int) -> int:
    """Return an amount, capped at MOST_BYTES."""
    return min(amount_bytes, MOST_BYTES)
