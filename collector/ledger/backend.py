"""The port of a ledger's storage, and of its administration from outside of a running collector.

There are two kinds: an embedded SQLite file for one collector, or a PostgreSQL database that any
number of collectors share. `engines.py` opens the one that LEDGER_URL names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from collector.ledger.corrections import Wanted
from collector.ledger.ports import (
    EmbeddedLedger,
    Ledger,
    LedgerCheck,
    LedgerReader,
    SharedLedger,
    SharedReader,
)
from collector.ledger.readers import ReaderPosition
from collector.reports.billing import Ratio
from collector.reports.contacts import Contacts
from collector.reports.reporters import Configured


class LedgerBackend(Protocol):
    """One ledger. Raises LedgerError if it cannot be used, or if a call names an unknown object."""

    @property
    def name(self) -> str:
        """Its path or URL without secrets, for messages."""
        ...

    @property
    def is_shared(self) -> bool:
        """Whether several collectors may write it; then it is a `SharedBackend`."""
        ...

    def prepare(self) -> None:
        """Create or migrate the ledger, and check that it can be used."""
        ...

    def open(self) -> Ledger:
        """Open the ledger for writing."""
        ...

    def reader(self) -> LedgerReader:
        """Open the ledger for reading."""
        ...

    def remembers_imports(self) -> bool:
        """Whether there is a ledger with tables for imports and ratios; an old file has none."""
        ...

    def identity(self) -> object:
        """Return what changes if the ledger is removed or replaced: a file's device and inode."""
        ...

    def free_disk_bytes(self) -> int | None:
        """Return the free bytes of its disk; None if the disk is the server's. Raises OSError."""
        ...

    def add_reporter(
        self,
        name: str,
        *,
        now_millis: int,
        counts_toward_quota: bool | None = None,
        key: str | None = None,
    ) -> str:
        """Store a new reporter and return its key, which cannot be read back later.

        The key is a new random one unless `key` is given.
        """
        ...

    def note_configured(self, configured: Sequence[Configured]) -> None:
        """Record the keys in a collector's environment, so that they can be listed and revoked."""
        ...

    def note_contacts(self, news: Contacts, *, now_millis: int) -> None:
        """Add contacts and refusals to those that are stored."""
        ...

    def revoke_configured(self, name: str, *, now_millis: int) -> bool:
        """Revoke the environment's key of a name; return whether there was a valid one."""
        ...

    def change_reporter(self, name: str, *, counts_toward_quota: bool) -> None:
        """Set whether a reporter's reports are billed from now on."""
        ...

    def rotate_reporter(self, name: str, *, now_millis: int, grace_millis: int) -> str:
        """Replace a reporter's key and return the new one; the old one is valid for the grace, too.

        The name stays, and with it the ids it has reported: a report that is sent again counts
        once.
        """
        ...

    def revoke_reporter(self, name: str, *, now_millis: int) -> None:
        """Revoke a reporter's keys."""
        ...

    def set_ratio(self, ratio: Ratio) -> int | None:
        """Store a server's billing ratio from now on; return the previous one, if any."""
        ...

    def clear_ratio(self, server: str) -> None:
        """Set a server's ratio back to 1."""
        ...

    def ask_correction(self, wanted: Wanted, *, asked_at_millis: int) -> int:
        """Store a request for a correction, also beside running collectors; return its number.

        The collector that writes the ledger carries it out, see `Ledger.correct`.
        """
        ...

    def rewind_exports(self) -> None:
        """Reset all exports to the beginning, also beside running collectors."""
        ...

    def reader_positions(self) -> dict[str, ReaderPosition]:
        """Return the positions of all readers that ever reported one, by reader."""
        ...

    def reader_position(self, reader: str) -> ReaderPosition | None:
        """Return the position that a reader reported last; None for an unknown reader."""
        ...

    def report_position(self, reader: str, position: ReaderPosition) -> ReaderPosition:
        """Store a reader's position unless the stored one is higher; return the stored one."""
        ...


class EmbeddedBackend(LedgerBackend, Protocol):
    """A ledger that only one collector may write."""

    @property
    def is_shared(self) -> Literal[False]:
        """False: no other collector may write it."""
        ...

    def open(self) -> EmbeddedLedger:
        """Open the ledger for writing."""
        ...

    def open_at_once(self) -> EmbeddedLedger:
        """Open the ledger for writing, before it is checked, and before all reports are added up.

        How long that takes does not depend on the number of reports.
        """
        ...

    def check(self, *, on_fault: Callable[[Exception], None]) -> LedgerCheck:
        """Return the check that is due then.

        It calls `on_fault` once, in a thread of its own, with the LedgerError that `open` raises.
        """
        ...


class SharedBackend(LedgerBackend, Protocol):
    """A ledger that several collectors write."""

    @property
    def is_shared(self) -> Literal[True]:
        """True: other collectors may write it as well."""
        ...

    def open(self, *, partitions: int = 1) -> SharedLedger:
        """Open the ledger for writing; divide the users of stored reports into so many parts.

        Each part is added up by itself. Collectors that do not agree on the number do no harm.
        """
        ...

    def reader(self) -> SharedReader:
        """Open the ledger for reading."""
        ...
