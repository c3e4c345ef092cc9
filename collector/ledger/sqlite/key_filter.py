"""Tells of most new ids, without a look into the indexes, that they are not stored.

A look-up in an index of millions of ids reads a page for each. Nearly all ids are new, so a bit is
kept in memory for each value of their first bits (ids are hashes), and set if an id with these bits
may be stored. An id whose bit is not set is new; the others are looked up. What is set is never
cleared: so the ids of a commit that failed, or that were forgotten, are looked up in vain.

The ids that were stored before are read from the indexes in the background, a slice of all ids at a
time, and handed to the writing thread; before all are there, every id is looked up. It is done
again once the ids are too many for the bits, or many were forgotten.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import sys
import threading
import time
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from collector.ledger.sqlite.key_index import INDEXES, PREFIX_BYTES, PREFIXES, between
from collector.runtime.sqlite.file import open_in_place

log = logging.getLogger(__name__)

FEWEST_KEYS = 10_000
"""With fewer ids there is no filter."""
LEAST_KEYS = 500_000
"""A filter has bits for so many at least: 512 KB."""
BITS_PER_KEY = 5
"""At least; up to twice as many. 15 % of new ids are looked up with 6.7, as for 10 million."""
MOST_KEYS_PER_BIT = 1 / 3
MOST_BITS = 2**29
"""64 MB; then ids are more than a tenth of a billion."""
PREFIX_BITS = 8 * PREFIX_BYTES
SLICES = 4096
"""At most."""
KEYS_PER_SLICE = 1000
"""At least, where there are so few ids."""
SHARE = 0.2
"""The share of time for reading the ids that were stored before."""
STOP_SECONDS = 2.0


class KeyFilter:
    """The filter of one ledger file; for the thread that writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bits: _Bits | None = None
        self._reading: _Reading | None = None
        self._is_outdated = False

    @property
    def is_complete(self) -> bool:
        """Whether it knows of all stored ids."""
        return self._bits is not None

    def may_have(self, keys: Sequence[bytes]) -> Sequence[bytes]:
        """Return the keys that may be stored; all others are not."""
        return keys if self._bits is None else self._bits.found(keys)

    def add(self, keys: Sequence[bytes]) -> None:
        """Add keys that are about to be stored, before the commit."""
        if self._bits is not None:
            self._bits.set(keys)
        if self._reading is not None:
            self._reading.bits.set(keys)

    def keep_up(self, kept: int, unindexed: Iterable[bytes]) -> None:
        """Go on with reading stored keys, or begin, of about so many; called before each commit.

        `unindexed` are the keys of stored reports that are in no index yet.
        """
        if self._reading is not None:
            if self._reading.take_news():
                self._bits, self._reading = self._reading.bits, None
        elif kept >= FEWEST_KEYS and (self._bits is None or self._is_due(self._bits)):
            self._is_outdated = False
            bits = _Bits(max(kept, LEAST_KEYS))
            self._reading = _Reading(self._path, bits, slices=_slices_for(kept))
            self._reading.bits.set(unindexed)
            self._reading.start()

    def _is_due(self, bits: _Bits) -> bool:
        return self._is_outdated or bits.is_too_full

    def note_forgotten(self) -> None:
        """Note that many keys were forgotten."""
        self._is_outdated = True

    def close(self) -> None:
        """End reading."""
        if self._reading is not None:
            self._reading.stop()
            self._reading = None


def _slices_for(keys: int) -> int:
    return min(SLICES, 1 << (keys // KEYS_PER_SLICE).bit_length())


class _Bits:
    """A bit for each value of the first bits of a key."""

    def __init__(self, keys: int) -> None:
        size = max(SLICES * 8, min(MOST_BITS, 1 << (keys * BITS_PER_KEY - 1).bit_length()))
        self.bytes = bytearray(size // 8)
        self.shift = PREFIX_BITS - (size.bit_length() - 1)
        self.keys = 0

    @property
    def is_too_full(self) -> bool:
        size = len(self.bytes) * 8
        return size < MOST_BITS and self.keys > size * MOST_KEYS_PER_BIT

    def found(self, keys: Iterable[bytes]) -> list[bytes]:
        """Return the keys whose bits are set."""
        found, shift, number = self.bytes, self.shift, int.from_bytes
        return [
            key
            for key in keys
            if found[(bit := number(key[:PREFIX_BYTES]) >> shift) >> 3] >> (bit & 7) & 1
        ]

    def set(self, keys: Iterable[bytes]) -> None:
        """Set the bits of keys."""
        known, shift, number = self.bytes, self.shift, int.from_bytes
        count = 0
        for key in keys:
            bit = number(key[:PREFIX_BYTES]) >> shift
            known[bit >> 3] |= 1 << (bit & 7)
            count += 1
        self.keys += count

    def merge(self, first: int, piece: bytes, keys: int) -> None:
        """Set the bits that are set in a piece, which begins at a byte."""
        last = first + len(piece)
        merged = int.from_bytes(self.bytes[first:last]) | int.from_bytes(piece)
        self.bytes[first:last] = merged.to_bytes(len(piece))
        self.keys += keys


class _Reading:
    """Reads the stored keys, in a thread and on a connection of its own."""

    def __init__(self, path: Path, bits: _Bits, *, slices: int) -> None:
        self.bits = bits
        """Of the writing thread alone."""
        self._path = path
        self._pieces: deque[tuple[int, bytes, int]] = deque()
        self._slices = self._slices_left = slices
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger ids", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(STOP_SECONDS)

    def take_news(self) -> bool:
        """Take what has been read; return whether that was all."""
        while self._pieces:
            self.bits.merge(*self._pieces.popleft())
            self._slices_left -= 1
        return not self._slices_left

    def _run(self) -> None:
        try:
            with contextlib.closing(open_in_place(self._path)) as db:
                for number in range(self._slices):
                    started_at = time.monotonic()
                    self._pieces.append(self._read(db, number))
                    took_seconds = time.monotonic() - started_at
                    if self._stopped.wait(took_seconds * (1 - SHARE) / SHARE):
                        return
        except sqlite3.Error as error:  # ids are looked up then, as before
            log.warning("the ids in the ledger %s could not be read: %s", self._path, error)

    def _read(self, db: sqlite3.Connection, number: int) -> tuple[int, bytes, int]:
        """Return the bits of a slice of all keys, from one snapshot: keys move between indexes."""
        slice_bytes = len(self.bits.bytes) // self._slices
        piece = bytearray(slice_bytes)
        step = PREFIXES // self._slices
        first = number * step
        where, bounds = between(first, first + step)
        # One text of all: the rows are read without a lock on the interpreter.
        prefixes = f"group_concat(hex(substr(key, 1, {PREFIX_BYTES})), '')"
        db.execute("BEGIN")
        texts = [
            db.execute(f"SELECT {prefixes} FROM {table} WHERE {where}", bounds).fetchone()[0]
            for table in INDEXES
        ]
        db.execute("COMMIT")
        numbers = array("I", bytes.fromhex("".join(text or "" for text in texts)))
        if sys.byteorder == "little":
            numbers.byteswap()
        shift = self.bits.shift
        for prefix in numbers:
            bit = (prefix - first) >> shift
            piece[bit >> 3] |= 1 << (bit & 7)
        return number * slice_bytes, bytes(piece), len(numbers)
