"""Administration of a ledger from outside of a running collector, for both engines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

from collector.ledger.corrections import Wanted
from collector.ledger.readers import ReaderPosition
from collector.ledger.sql import corrections as sql_corrections
from collector.ledger.sql import export as sql_export
from collector.ledger.sql import ratios as sql_ratios
from collector.ledger.sql import readers as sql_readers
from collector.ledger.sql import reporters as sql_reporters
from collector.ledger.sql.database import Database
from collector.reports.billing import Ratio
from collector.reports.contacts import Contacts
from collector.reports.reporters import Configured, merge_configured, revoke_configured

T = TypeVar("T")


class SqlAdministration(ABC):
    """Administers a ledger; see `LedgerBackend` for each method's contract.

    Raises LedgerError if a call names an unknown object, NotStoredError or a subclass if nothing
    was stored.
    """

    @abstractmethod
    def administer(self, work: Callable[[Database], T], *, only_reads: bool = False) -> T:
        """Run something in one transaction, also beside running collectors."""

    def add_reporter(
        self,
        name: str,
        *,
        now_millis: int,
        counts_toward_quota: bool | None = None,
        key: str | None = None,
    ) -> str:
        """Store a new reporter and return its key."""
        sql_reporters.check_name(name)
        return self.administer(
            lambda db: sql_reporters.add_reporter(
                db, name, now_millis=now_millis, counts_toward_quota=counts_toward_quota, key=key
            )
        )

    def note_configured(self, configured: Sequence[Configured]) -> None:
        """Record the keys in a collector's environment."""
        self.administer(
            lambda db: sql_reporters.keep_configured(
                db, lambda kept: merge_configured(kept, configured)
            )
        )

    def note_contacts(self, news: Contacts, *, now_millis: int) -> None:
        """Add contacts and refusals to those that are stored."""
        self.administer(lambda db: sql_reporters.add_contacts(db, news, now_millis=now_millis))

    def revoke_configured(self, name: str, *, now_millis: int) -> bool:
        """Revoke the key that the environment has for a name."""
        return self.administer(
            lambda db: sql_reporters.keep_configured(
                db, lambda kept: revoke_configured(kept, name, now_millis=now_millis)
            )
        )

    def change_reporter(self, name: str, *, counts_toward_quota: bool) -> None:
        """Set whether a reporter's reports are billed from now on."""
        self.administer(
            lambda db: sql_reporters.change_reporter(
                db, name, counts_toward_quota=counts_toward_quota
            )
        )

    def rotate_reporter(self, name: str, *, now_millis: int, grace_millis: int) -> str:
        """Replace a reporter's key and return the new one."""
        return self.administer(
            lambda db: sql_reporters.rotate_reporter(
                db, name, now_millis=now_millis, grace_millis=grace_millis
            )
        )

    def revoke_reporter(self, name: str, *, now_millis: int) -> None:
        """Revoke a reporter's keys."""
        self.administer(lambda db: sql_reporters.revoke_reporter(db, name, now_millis=now_millis))

    def set_ratio(self, ratio: Ratio) -> int | None:
        """Store a server's billing ratio; return the previous one."""
        sql_ratios.check_server(ratio.server)
        return self.administer(lambda db: sql_ratios.set_ratio(db, ratio))

    def clear_ratio(self, server: str) -> None:
        """Set a server's ratio back to 1."""
        self.administer(lambda db: sql_ratios.clear_ratio(db, server))

    def ask_correction(self, wanted: Wanted, *, asked_at_millis: int) -> int:
        """Store a request for a correction; return its number."""
        return self.administer(
            lambda db: sql_corrections.ask(db, wanted, asked_at_millis=asked_at_millis)
        )

    def rewind_exports(self) -> None:
        """Reset all exports to the beginning."""
        self.administer(sql_export.rewind)

    def reader_positions(self) -> dict[str, ReaderPosition]:
        """Return the positions of all readers that ever reported one, by reader."""
        return self.administer(sql_readers.reader_positions, only_reads=True)

    def reader_position(self, reader: str) -> ReaderPosition | None:
        """Return the position that a reader reported last; None for an unknown reader."""
        return self.administer(lambda db: sql_readers.reader_position(db, reader), only_reads=True)

    def report_position(self, reader: str, position: ReaderPosition) -> ReaderPosition:
        """Store a reader's position unless the stored one is higher; return the stored one."""
        return self.administer(lambda db: sql_readers.report_position(db, reader, position))
