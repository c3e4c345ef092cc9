"""Reports of a range grouped by series, each spelled as text by the engine; to be exported.

So a report of a backlog costs no row and no object of its own: the engine makes one text of all the
reports of a series, without Python's lock.
"""

from __future__ import annotations

import msgspec

BETWEEN_REPORTS = ";"
"""What stands between two reports in a text."""
PART_ROWS = 40_000
"""About how many reports are read at a time, which bounds the memory that reading takes."""


class Grouping(msgspec.Struct, frozen=True, kw_only=True):
    """How to group and to spell reports. The first five fields are what stands before a number."""

    upload_bytes: str
    download_bytes: str
    billed_bytes: str
    connections: str
    time: str
    """Before the time in milliseconds, times a million, with the seq modulo a million added."""
    slice_millis: int
    """A sum of a server is of the reports of such a time, counted from 1970, …"""
    block_rows: int
    """… and of a block of so many seqs. The range ends with a block."""
    oldest_millis: int
    """Reports before this time, and sums of times that began before it, are not exported."""


class SeriesReports(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The reports of one series."""

    username: str
    server: str
    port: int
    protocol: str
    reports: int
    """How many."""
    spelled: str
    """The reports, in any order, with BETWEEN_REPORTS between them."""


class ServerSum(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The sums of a server's reports in one time and one block; see `sql.database.whole`."""

    server: str
    slice_number: int
    block_number: int
    upload_bytes: str | int
    download_bytes: str | int
    billed_bytes: str | int
    connections: str | int


class GroupedReports(msgspec.Struct, frozen=True):
    """The reports after a seq, through another one; `series_reports` returns them in parts."""

    after_seq: int
    through_seq: int
    sums: list[ServerSum]

    @property
    def parts(self) -> int:
        """In how many parts they are to be read, each of which has some of the series."""
        return -(-(self.through_seq - self.after_seq) // PART_ROWS)
