"""How much memory request bodies may take at once, over all requests; pure."""

from __future__ import annotations

from typing import Self


class Reservation:
    """The memory that one request has reserved; freed at the end of its `with` block."""

    def __init__(self, budget: BodyMemoryBudget) -> None:
        self._budget = budget
        self.reserved_bytes = 0

    def add(self, amount_bytes: int) -> bool:
        """Reserve so much more; False when that is not free, and then nothing was reserved."""
        if amount_bytes > self._budget.free_bytes:
            return False
        self._budget.free_bytes -= amount_bytes
        self.reserved_bytes += amount_bytes
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.free_bytes += self.reserved_bytes


class BodyMemoryBudget:
    """The bytes that the bodies of all open requests of a kind may take together."""

    def __init__(self, most_bytes: int) -> None:
        self.free_bytes = most_bytes

    def reserve(self) -> Reservation:
        """Return a request's reservation, empty at first."""
        return Reservation(self)
