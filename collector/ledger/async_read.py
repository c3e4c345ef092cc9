"""The interface by which code in an event loop reads the ledger: queries run in a thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from collector.ledger.ports import LedgerReader

T = TypeVar("T")


class AsyncRead(Protocol):
    """Runs a query in a thread; raises what the query raises."""

    def __call__(self, query: Callable[[LedgerReader], T], /) -> Awaitable[T]:
        """Return what the query returns."""
        ...
