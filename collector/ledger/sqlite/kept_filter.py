"""Keeps a filter of ids in a file beside its ledger, from a clean end to the next start.

The file states up to which report it knows of the ids, and which run of a collector stored that
report. A ledger in which the same run stored it has the same reports up to there, so the filter is
good for it, with the ids of the reports after. One that was restored from an older copy has fewer
reports, or has them from another run; then the file is not used. See decision 0047.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import zlib
from pathlib import Path

import msgspec

from collector.runtime.private_files import make_private

log = logging.getLogger(__name__)

FORMAT = 3
"""1 had one bit for each id, and 2 had two, otherwise placed."""
MOST_HEADER_BYTES = 1024
_RUN_OF = "SELECT token FROM run WHERE after_seq < ? ORDER BY after_seq DESC LIMIT 1"
_LAST_SEQ = "SELECT seq FROM sqlite_sequence WHERE name = 'report'"
_LEDGER_ID = "SELECT value FROM meta WHERE key = 'ledger_id'"


class KeptFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What the first line of the file states; the bits follow."""

    format: int
    ledger_id: str
    last_seq: int
    """The filter knows the ids of all reports up to this one."""
    run: str
    """The token of the run that stored it."""
    keys: int
    size_bytes: int
    crc32: int
    """Of this line with 0 in its place, and then the bits."""


def place_of(path: Path) -> Path:
    """Return where the filter of a ledger file is kept."""
    return path.with_name(path.name + ".ids")


def find(path: Path) -> KeptFilter | None:
    """Return what is kept for a ledger file; None if there is nothing that this version reads."""
    place = place_of(path)
    try:
        with place.open("rb") as file:
            line = file.readline(MOST_HEADER_BYTES)
            found = msgspec.json.decode(line, type=KeptFilter)
            whole = len(line) + found.size_bytes == os.fstat(file.fileno()).st_size
    except (OSError, msgspec.DecodeError):
        return None
    return found if whole and found.format == FORMAT else None


def reports_since(db: sqlite3.Connection, kept: KeptFilter) -> int | None:
    """Return how many reports a ledger has had since a filter was kept; None if it is not of it."""
    row = db.execute(_LAST_SEQ).fetchone()
    reports = -1 if row is None else int(row[0]) - kept.last_seq
    is_same = (
        reports >= 0
        and db.execute(_LEDGER_ID).fetchone() == (kept.ledger_id,)
        and db.execute(_RUN_OF, (kept.last_seq,)).fetchone() == (kept.run,)
    )
    return reports if is_same else None


def read(path: Path, kept: KeptFilter) -> bytearray | None:
    """Read the bits that `find` found; None if they are not what was written, or cannot be read."""
    bits = bytearray(kept.size_bytes)
    with contextlib.suppress(OSError), place_of(path).open("rb") as file:
        file.readline(MOST_HEADER_BYTES)
        if file.readinto(bits) == len(bits) and _checksum(kept, bits) == kept.crc32:
            return bits
    return None


def keep(db: sqlite3.Connection, path: Path, bits: bytearray, *, keys: int, last_seq: int) -> None:
    """Write the bits of a filter that knows the ids of all reports up to one.

    `db` is the connection by which they were stored, and nothing else may write the ledger
    meanwhile. What cannot be written is logged, and an earlier file stays: it is as true as before.
    """
    place = place_of(path)
    draft = place.with_name(place.name + ".new")
    try:
        run = db.execute(_RUN_OF, (last_seq,)).fetchone()
        ledger_id = db.execute(_LEDGER_ID).fetchone()
        if run is None or ledger_id is None:
            return
        header = KeptFilter(
            format=FORMAT,
            ledger_id=ledger_id[0],
            last_seq=last_seq,
            run=run[0],
            keys=keys,
            size_bytes=len(bits),
            crc32=0,
        )
        header = msgspec.structs.replace(header, crc32=_checksum(header, bits))
        draft.unlink(missing_ok=True)
        make_private(draft)
        with draft.open("wb") as file:
            file.write(msgspec.json.encode(header) + b"\n")
            file.write(bits)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(place)
    except (OSError, sqlite3.Error) as error:
        log.warning("the filter of ids was not kept in %s: %s", place, error)


def _checksum(kept: KeptFilter, bits: bytearray) -> int:
    line = msgspec.json.encode(msgspec.structs.replace(kept, crc32=0))
    return zlib.crc32(bits, zlib.crc32(line))
