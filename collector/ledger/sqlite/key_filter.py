"""Tells of most new ids, without a look into the indexes, that they are not stored.

A look-up in an index of millions of ids reads a page for each. Nearly all ids are new, so bits are
kept in memory, and two of them are set for each id that may be stored: the place of one is the id's
first bits (ids are hashes), and some bits that follow choose the other one near it. An id of which
a bit is not set is new; the others are looked up. What is set is never cleared: so the ids of a
commit that failed, or that were forgotten, are looked up in vain.

At a clean end the bits are kept in a file, which the next start reads, with the ids of the reports
that came after (`kept_filter`). Where there is none that fits, the ids that were stored before are
read from the indexes in the background, a slice of all ids at a time, and handed to the writing
thread; before all are there, every id is looked up. It is done again once the ids are too many for
the bits, or many were forgotten.
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
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from collector.ledger.sqlite import kept_filter
from collector.ledger.sqlite.kept_filter import KeptFilter
from collector.ledger.sqlite.key_index import INDEXES, PREFIX_BYTES, PREFIXES, between
from collector.runtime.sqlite.file import open_in_place

log = logging.getLogger(__name__)

FEWEST_KEYS = 10_000
"""With fewer ids there is no filter."""
LEAST_KEYS = 500_000
"""A filter has bits for so many at least: 512 KB."""
BITS_PER_KEY = 5
"""At least; up to twice as many. 7 % of new ids are looked up with 6.7, as for 10 million."""
BLOCK_BITS = 64
"""The two bits of an id are in one block, so that a slice of all ids has its own bits."""
MOST_KEYS_PER_BIT = 1 / 3
MOST_BITS = 2**29
"""64 MB; then ids are more than a tenth of a billion."""
PREFIX_BITS = 8 * PREFIX_BYTES
KEY_BYTES = 16
"""Of nearly all keys; see `report_key`."""
SLICES = 4096
"""At most."""
KEYS_PER_SLICE = 1000
"""At least, where there are so few ids."""
SHARE = 0.2
"""The share of time for reading the ids that were stored before."""
REPORTS_PER_PIECE = 10_000
"""Of the reports that came after a filter was kept."""
STOP_SECONDS = 2.0


class KeyFilter:
    """The filter of one ledger file; for the thread that writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bits: _Bits | None = None
        self._reading: _Reading | _Recall | None = None
        self._is_outdated = False
        self._is_recalled = False
        """Whether it has been looked for in its file."""

    @property
    def is_complete(self) -> bool:
        """Whether it knows of all stored ids."""
        return self._bits is not None

    def may_have(self, keys: Sequence[bytes]) -> Sequence[bytes]:
        """Return the keys that may be stored; all others are not."""
        return keys if self._bits is None else self._bits.found(keys)

    def claim(self, keys: Sequence[bytes]) -> Sequence[bytes]:
        """Add keys that are about to be stored, before the commit; return as `may_have`.

        A key that is in there twice is returned as well.
        """
        if self._reading is not None:
            self._reading.add(keys)
        return keys if self._bits is None else self._bits.claim(keys)

    def keep_up(self, kept: int, unindexed: Iterable[bytes]) -> None:
        """Go on with reading stored keys, or begin, of about so many; called before each commit.

        `unindexed` are the keys of stored reports that are in no index yet.
        """
        if self._reading is not None:
            if self._reading.take_news():
                self._bits, self._reading = self._reading.bits, None
        elif kept >= FEWEST_KEYS and (self._bits is None or self._is_due(self._bits)):
            reading = self._recall(kept) or _Reading(
                self._path, _Bits.for_keys(kept), slices=_slices_for(kept)
            )
            reading.add(unindexed)
            if reading.start():
                self._is_outdated, self._reading = False, reading

    def _recall(self, kept: int) -> _Recall | None:
        """Return what reads the bits of the last clean end; None where they cannot be used."""
        if self._is_recalled:
            return None
        self._is_recalled = True
        found = kept_filter.find(self._path)
        if found is None or not _Bits.is_size(found.size_bytes):
            return None
        return _Recall(self._path, found, most_reports=kept // 2)

    def _is_due(self, bits: _Bits) -> bool:
        return self._is_outdated or bits.is_too_full

    def note_forgotten(self) -> None:
        """Note that many keys were forgotten."""
        self._is_outdated = True

    def close(self, db: sqlite3.Connection, *, last_seq: int) -> None:
        """End reading; keep the bits, which have the ids of all reports up to one, in a file.

        `db` is the writer's own connection: another file may be in the ledger's place by now.
        """
        if self._reading is not None:
            self._reading.stop()
            self._reading = None
        if self._bits is not None:
            bits = self._bits
            kept_filter.keep(db, self._path, bits.bytes, keys=bits.keys, last_seq=last_seq)


def _slices_for(keys: int) -> int:
    return min(SLICES, 1 << (keys // KEYS_PER_SLICE).bit_length())


class _Bits:
    """Two bits for each key: that of its first bits, and another one in the same block."""

    def __init__(self, content: bytearray, *, keys: int = 0) -> None:
        self.bytes = content
        self.shift = PREFIX_BITS - ((len(content) * 8).bit_length() - 1)
        self.keys = keys

    @classmethod
    def for_keys(cls, keys: int) -> _Bits:
        """Return bits for so many keys, none of which is set."""
        bits = max(keys, LEAST_KEYS) * BITS_PER_KEY
        size = max(SLICES * BLOCK_BITS, min(MOST_BITS, 1 << (bits - 1).bit_length()))
        return cls(bytearray(size // 8))

    @staticmethod
    def is_size(size_bytes: int) -> bool:
        """Tell whether bits may take so much."""
        return BLOCK_BITS // 8 <= size_bytes <= MOST_BITS // 8 and size_bytes.bit_count() == 1

    @property
    def is_too_full(self) -> bool:
        size = len(self.bytes) * 8
        return size < MOST_BITS and self.keys > size * MOST_KEYS_PER_BIT

    def found(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return the keys whose bits are set."""
        return [
            key
            for key, prefix in zip(keys, _prefixes_of(keys), strict=True)
            if all(self.bytes[bit >> 3] >> (bit & 7) & 1 for bit in _places(prefix, self.shift))
        ]

    def set(self, keys: Iterable[bytes]) -> None:
        """Set the bits of keys."""
        self.claim(list(keys))

    def claim(self, keys: Sequence[bytes]) -> list[bytes]:
        """Set the bits of keys; return the keys whose bits were set before."""
        known, shift, following = self.bytes, self.shift, _following(self.shift)
        found = []
        for key, prefix in zip(keys, _prefixes_of(keys), strict=True):  # as `_places` has them
            bit = prefix >> shift
            other = bit ^ prefix & following
            place, mask = bit >> 3, 1 << (bit & 7)
            if (byte := known[place]) & mask:
                place, mask = other >> 3, 1 << (other & 7)
                if (byte := known[place]) & mask:
                    found.append(key)
                else:
                    known[place] = byte | mask
            else:
                known[place] = byte | mask
                known[other >> 3] |= 1 << (other & 7)
        self.keys += len(keys)
        return found

    def merge(self, first: int, piece: bytes, keys: int) -> None:
        """Set the bits that are set in a piece, which begins at a byte."""
        last = first + len(piece)
        merged = int.from_bytes(self.bytes[first:last]) | int.from_bytes(piece)
        self.bytes[first:last] = merged.to_bytes(len(piece))
        self.keys += keys


def _prefixes_of(keys: Sequence[bytes]) -> Sequence[int]:
    """Return the first bytes of each key, as a number."""
    if set(map(len, keys)) != {KEY_BYTES}:
        return [int.from_bytes(key[:PREFIX_BYTES]) for key in keys]
    return _numbers(b"".join(keys))[:: KEY_BYTES // PREFIX_BYTES]


def _numbers(prefixes: bytes) -> array[int]:
    numbers = array("I", prefixes)
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers


class _Background:
    """A thread that reads the ledger a piece at a time, on a connection of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger ids", daemon=True)

    def start(self) -> bool:
        """Start the thread; return whether there is one. If not, it is logged."""
        try:
            self._thread.start()
        except RuntimeError as error:  # there are too many
            log.warning("the ids in the ledger %s are not read now: %s", self._path, error)
            return False
        return True

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        started_at = time.monotonic()
        try:
            with contextlib.closing(open_in_place(self._path)) as db:
                for _ in self._pieces(db):
                    took_seconds = time.monotonic() - started_at
                    if self._stopped.wait(took_seconds * (1 - SHARE) / SHARE):
                        return
                    started_at = time.monotonic()
        except sqlite3.Error as error:  # ids are looked up then, as before
            log.warning("the ids in the ledger %s could not be read: %s", self._path, error)

    def _pieces(self, db: sqlite3.Connection) -> Iterator[None]:
        """Read on from piece to piece."""
        raise NotImplementedError


class _Reading(_Background):
    """Reads the stored keys from the indexes."""

    def __init__(self, path: Path, bits: _Bits, *, slices: int) -> None:
        super().__init__(path)
        self.bits = bits
        """Of the writing thread alone."""
        self._read_pieces: deque[tuple[int, bytes, int]] = deque()
        self._slices = self._slices_left = slices

    def add(self, keys: Iterable[bytes]) -> None:
        """Add keys that may be stored meanwhile."""
        self.bits.set(keys)

    def take_news(self) -> bool:
        """Take what has been read; return whether that was all."""
        while self._read_pieces:
            self.bits.merge(*self._read_pieces.popleft())
            self._slices_left -= 1
        return not self._slices_left

    def _pieces(self, db: sqlite3.Connection) -> Iterator[None]:
        for number in range(self._slices):
            self._read_pieces.append(self._read(db, number))
            yield

    def _read(self, db: sqlite3.Connection, number: int) -> tuple[int, bytes, int]:
        """Return the bits of a slice of all keys, from one snapshot: keys move between indexes."""
        slice_bytes = len(self.bits.bytes) // self._slices
        piece = bytearray(slice_bytes)
        step = PREFIXES // self._slices
        first = number * step
        where, bounds = between(first, first + step)
        db.execute("BEGIN")
        texts = [
            db.execute(f"SELECT {_prefixes('key')} FROM {table} WHERE {where}", bounds).fetchone()
            for table in INDEXES
        ]
        db.execute("COMMIT")
        prefixes = _decoded("".join(text or "" for (text,) in texts))
        _set(piece, prefixes, shift=self.bits.shift, first=first)
        return number * slice_bytes, bytes(piece), len(prefixes)


class _Recall(_Background):
    """Reads the bits that were kept at the last clean end, and the keys of the reports after."""

    def __init__(self, path: Path, kept: KeptFilter, *, most_reports: int) -> None:
        super().__init__(path)
        self.bits: _Bits | None = None
        """All bits, at the end; None if those that were kept cannot be used."""
        self._kept = kept
        self._most_reports = most_reports
        self._added: list[bytes] = []
        self._found: _Bits | None = None

    def add(self, keys: Iterable[bytes]) -> None:
        """Add keys that may be stored meanwhile."""
        self._added.extend(keys)

    def take_news(self) -> bool:
        """Take what has been read; return whether that was all."""
        if self._thread.is_alive():
            return False
        if self._found is not None:
            self._found.set(self._added)
            self.bits = self._found
        return True

    def _pieces(self, db: sqlite3.Connection) -> Iterator[None]:
        after = self._kept.last_seq
        reports = kept_filter.reports_since(db, self._kept)
        if reports is None or reports > self._most_reports:
            return
        content = kept_filter.read(self._path, self._kept)
        if content is None:
            return
        found = _Bits(content, keys=self._kept.keys)
        query = f"SELECT count(*), {_prefixes('report_key')} FROM report WHERE seq > ? AND seq <= ?"
        for first in range(after, after + reports, REPORTS_PER_PIECE):
            last = min(first + REPORTS_PER_PIECE, after + reports)
            count, text = db.execute(query, (first, last)).fetchone()
            if count < last - first:  # some were purged, their ids not
                return
            prefixes = _decoded(text or "")
            _set(found.bytes, prefixes, shift=found.shift, first=0)
            found.keys += len(prefixes)
            yield
        self._found = found


def _prefixes(key: str) -> str:
    """Return the SQL for the first bytes of keys, as one text of all: to be `_decoded`.

    So the rows are read without a lock on the interpreter.
    """
    return f"group_concat(hex(substr({key}, 1, {PREFIX_BYTES})), '')"


def _decoded(text: str) -> array[int]:
    return _numbers(bytes.fromhex(text))


def _set(bits: bytearray, prefixes: array[int], *, shift: int, first: int) -> None:
    """Set the bits of keys, by their first bytes; `first` is the prefix of the first block."""
    following = _following(shift)
    for prefix in prefixes:
        bit = (prefix - first) >> shift
        other = bit ^ prefix & following
        bits[bit >> 3] |= 1 << (bit & 7)
        bits[other >> 3] |= 1 << (other & 7)


def _places(prefix: int, shift: int) -> tuple[int, int]:
    """Return the places of the bits of a key, by its first bytes."""
    bit = prefix >> shift
    return bit, bit ^ prefix & _following(shift)


def _following(shift: int) -> int:
    """Return which bits of a prefix choose the second place: such as do not choose the block."""
    return min(1 << shift, BLOCK_BITS) - 1
