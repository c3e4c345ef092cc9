"""Tells of most new ids, without a look into the indexes, that they are not stored.

A look-up in an index of millions of ids reads a page for each. Nearly all ids are new, so bits are
kept in memory, in words of 64, and up to three bits of one word are set for each id that may be
stored: the id's first bits (ids are hashes) choose the word, and some that follow choose the bits.
An id of which a bit is not set is new; the others are looked up. What is set is never cleared: so
the ids of a commit that failed, or that were forgotten, are looked up in vain.

At a clean end the bits are kept in a file, which the next start reads, with the ids of the reports
that came after (`kept_filter`). Where there is none that fits, the ids that were stored before are
read from the indexes in the background, a slice of all ids at a time, and handed to the writing
thread; before all are there, every id is looked up. It is done again once the ids are too many for
the bits, or many were forgotten.
"""

from __future__ import annotations

import contextlib
import functools
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
"""At least, or the bits are made again; up to twice as many. Of new ids, 10 % are looked up with 5,
5.5 % with 6.7, as for 10 million, and 2.3 % with 10."""
WORD_BITS = 64
WORD_BYTES = WORD_BITS // 8
MASK_BITS = 12
"""So many of an id's bits choose those of its word."""
_MASKS = 2**MASK_BITS
_SPREAD = 0x9E3779B1
"""A product by it has the first of its 32 bits spread evenly."""
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
            # An id is kept for longer than its report, so there may be twice as many.
            known = 0 if self._bits is None or self._is_outdated else self._bits.keys
            keys = max(kept, known)
            reading = self._recall(kept) or _Reading(
                self._path, _Bits.for_keys(keys), slices=_slices_for(keys)
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
    """Bits of one word for each key: its first bits choose the word, and the last ones the bits."""

    def __init__(self, content: bytearray, *, keys: int = 0) -> None:
        self.bytes = content
        self.words = memoryview(content).cast("Q")
        self.shift = PREFIX_BITS - (len(self.words).bit_length() - 1)
        self.keys = keys
        """About how many have been added, without those whose bits were set."""

    @classmethod
    def for_keys(cls, keys: int) -> _Bits:
        """Return bits for so many keys, none of which is set."""
        bits = max(keys, LEAST_KEYS) * BITS_PER_KEY
        size = max(SLICES * WORD_BITS, min(MOST_BITS, 1 << (bits - 1).bit_length()))
        return cls(bytearray(size // 8))

    @staticmethod
    def is_size(size_bytes: int) -> bool:
        """Tell whether bits may take so much."""
        return WORD_BYTES <= size_bytes <= MOST_BITS // 8 and size_bytes.bit_count() == 1

    @property
    def is_too_full(self) -> bool:
        size = len(self.bytes) * 8
        return size < MOST_BITS and self.keys * BITS_PER_KEY > size

    def found(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return the keys whose bits are set."""
        masks = _masks()
        return [
            key
            for key, prefix in zip(keys, _prefixes_of(keys), strict=True)
            if not ~self.words[prefix >> self.shift] & masks[prefix & _MASKS - 1]
        ]

    def set(self, keys: Iterable[bytes]) -> None:
        """Set the bits of keys."""
        self.claim(list(keys))

    def claim(self, keys: Sequence[bytes]) -> list[bytes]:
        """Set the bits of keys; return the keys whose bits were set before."""
        words, shift, masks, of_mask = self.words, self.shift, _masks(), _MASKS - 1
        found = []
        for key, prefix in zip(keys, _prefixes_of(keys), strict=True):
            place, mask = prefix >> shift, masks[prefix & of_mask]
            word = words[place]
            if word & mask == mask:
                found.append(key)
            else:
                words[place] = word | mask
        self.keys += len(keys) - len(found)
        return found

    def merge(self, first: int, piece: bytearray, keys: int) -> None:
        """Set the bits that are set in a piece, which begins at a byte."""
        last = first + len(piece)
        merged = int.from_bytes(self.bytes[first:last]) | int.from_bytes(piece)
        self.bytes[first:last] = merged.to_bytes(len(piece))
        self.keys += keys


@functools.cache
def _masks() -> Sequence[int]:
    """Return the bits of a word by the last bits of a key's prefix: three of them, or two.

    Files have bits that were set by these, so they have to stay as they are.
    """
    masks = array("Q")
    for number in range(_MASKS):
        first = number % WORD_BITS
        second = (first + 1 + (number // WORD_BITS) % (WORD_BITS - 1)) % WORD_BITS
        third = (number * _SPREAD % 2**32) // (2**32 // WORD_BITS)
        masks.append(1 << first | 1 << second | 1 << third)
    if sys.byteorder != "little":  # files say the same on all machines
        masks.byteswap()
    return tuple(masks)


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
        self._read_pieces: deque[tuple[int, bytearray, int]] = deque()
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

    def _read(self, db: sqlite3.Connection, number: int) -> tuple[int, bytearray, int]:
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
        _set(memoryview(piece).cast("Q"), prefixes, shift=self.bits.shift, first=first)
        return number * slice_bytes, piece, len(prefixes)


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
            _set(found.words, prefixes, shift=found.shift, first=0)
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


def _set(words: memoryview[int], prefixes: array[int], *, shift: int, first: int) -> None:
    """Set the bits of keys, by their first bytes; `first` is the first prefix of the words."""
    masks, of_mask = _masks(), _MASKS - 1
    for prefix in prefixes:
        words[prefix - first >> shift] |= masks[prefix & of_mask]
