"""The outbox: its values, its port, and an implementation in memory for `send`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Item:
    """A report (or relayed payload) to be sent, in the order of `seq`; its id never changes.

    The collector dates an undated item by its arrival.
    """

    seq: int
    item_id: str
    body: bytes
    queued_at_millis: int
    is_undated: bool = False
    is_untried: bool = False
    """True if it was certainly never sent, so that no collector can have it."""

    def tried(self, *, is_untried: bool) -> Item:
        """Return the item with another `is_untried`."""
        return replace(self, is_untried=is_untried)


@dataclass(frozen=True, slots=True)
class SetAside:
    """An item that becomes a dead letter, and why."""

    item: Item
    reason: str


@dataclass(frozen=True, slots=True)
class Settlement:
    """What becomes of the items of a request, as its answer decides."""

    done: Sequence[Item] = ()
    set_aside: Sequence[SetAside] = ()
    undated: Sequence[Item] = ()
    """Items to be sent again without a time."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much waits to be sent, and since when; and how many dead letters there ever were."""

    items: int
    size_bytes: int
    oldest_at: datetime | None
    set_aside_total: int
    set_aside_bytes: int = 0
    """Bytes of the dead letters that are kept; they take room in the spool."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An item that the collector refused for good."""

    lane: str
    item_id: str
    body: bytes
    reason: str
    set_aside_at: datetime


class Outbox(Protocol):
    """The queue from which a sender takes items."""

    def first(self, *, most_items: int, most_bytes: int) -> list[Item]:
        """Return the oldest items within the bounds, at least one if there is one."""
        ...

    def settle(self, settlement: Settlement) -> None:
        """Apply a settlement: remove items, store dead letters, update items."""
        ...

    def give_back(self, *, is_unsent: bool) -> None:
        """Release the items of `first`; `is_unsent`: no request left this machine."""
        ...


@dataclass(slots=True)
class MemoryOutbox:
    """An outbox for one call, gone with it."""

    items: list[Item]
    rejected: list[SetAside] = field(default_factory=list)

    def first(self, *, most_items: int, most_bytes: int) -> list[Item]:
        """Return the oldest items within the bounds, at least one if there is one."""
        return within(self.items, most_items=most_items, most_bytes=most_bytes)

    def settle(self, settlement: Settlement) -> None:
        """Apply a settlement: remove items, store dead letters, update items."""
        self.rejected += settlement.set_aside
        gone = {each.seq for each in settlement.done}
        gone |= {each.item.seq for each in settlement.set_aside}
        undated = {each.seq for each in settlement.undated}
        self.items = [
            replace(each, is_undated=True) if each.seq in undated else each
            for each in self.items
            if each.seq not in gone
        ]

    def give_back(self, *, is_unsent: bool) -> None:
        """Do nothing: no other sender shares it."""


def within(items: Sequence[Item], *, most_items: int, most_bytes: int) -> list[Item]:
    """Return as many of the first items as the bounds allow, at least one if there is one."""
    taken: list[Item] = []
    size_bytes = 0
    for each in items[:most_items]:
        size_bytes += len(each.body)
        if taken and size_bytes > most_bytes:
            break
        taken.append(each)
    return taken
