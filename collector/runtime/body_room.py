"""How much memory request bodies may take at once, over all requests; pure."""

from __future__ import annotations

from typing import Self


class Place:
    """What one request has taken of the room."""

    def __init__(self, room: BodyRoom) -> None:
        self._room = room
        self.taken_bytes = 0

    def take(self, amount_bytes: int) -> bool:
        """Take so much more; False when it is not there, and then nothing was taken."""
        if amount_bytes > self._room.free_bytes:
            return False
        self._room.free_bytes -= amount_bytes
        self.taken_bytes += amount_bytes
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._room.free_bytes += self.taken_bytes


class BodyRoom:
    """A number of bytes that requests share for as long as they are being worked on."""

    def __init__(self, most_bytes: int) -> None:
        self.free_bytes = most_bytes

    def place(self) -> Place:
        """Give a request a place; what it takes is free again when its context ends."""
        return Place(self)
