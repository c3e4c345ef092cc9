"""What is done to a ledger from outside of a running collector, alike on both engines."""

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
from collector.reports.reporters import Configured, merge_configured, revoke_configured

T = TypeVar("T")


class SqlAdministration(ABC):
    """Administers a ledger; see `LedgerBackend` for what each of it promises.

    Raises LedgerError where a call names what is not there, NotStoredError and its kinds where
    nothing of it was stored.
    """

    @abstractmethod
    def administer(self, work: Callable[[Database], T], *, only_reads: bool = False) -> T:
        """Run something in one transaction, beside running collectors too."""

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
        """Note which keys the environment of a collector has."""
        self.administer(
            lambda db: sql_reporters.keep_configured(
                db, lambda kept: merge_configured(kept, configured)
            )
        )

    def revoke_configured(self, name: str, *, now_millis: int) -> bool:
        """Make the environment's key of a name invalid."""
        return self.administer(
            lambda db: sql_reporters.keep_configured(
                db, lambda kept: revoke_configured(kept, name, now_millis=now_millis)
            )
        )

    def change_reporter(self, name: str, *, counts_toward_quota: bool) -> None:
        """Say whether what a reporter reports from now on is billed."""
        self.administer(
            lambda db: sql_reporters.change_reporter(
                db, name, counts_toward_quota=counts_toward_quota
            )
        )

    def rotate_reporter(self, name: str, *, now_millis: int, grace_millis: int) -> str:
        """Give a reporter another key and return it."""
        return self.administer(
            lambda db: sql_reporters.rotate_reporter(
                db, name, now_millis=now_millis, grace_millis=grace_millis
            )
        )

    def revoke_reporter(self, name: str, *, now_millis: int) -> None:
        """Make a reporter's key invalid."""
        self.administer(lambda db: sql_reporters.revoke_reporter(db, name, now_millis=now_millis))

    def set_ratio(self, ratio: Ratio) -> int | None:
        """Store how much a byte on a server counts; return the ratio before."""
        sql_ratios.check_server(ratio.server)
        return self.administer(lambda db: sql_ratios.set_ratio(db, ratio))

    def clear_ratio(self, server: str) -> None:
        """Have a byte on a server count as a byte again."""
        self.administer(lambda db: sql_ratios.clear_ratio(db, server))

    def ask_correction(self, wanted: Wanted, *, asked_at_millis: int) -> int:
        """Store that a correction is wanted; return its number."""
        return self.administer(
            lambda db: sql_corrections.ask(db, wanted, asked_at_millis=asked_at_millis)
        )

    def rewind_exports(self) -> None:
        """Begin all exports anew."""
        self.administer(sql_export.rewind)

    def reader_positions(self) -> dict[str, ReaderPosition]:
        """Return the positions of all readers that ever reported one, by reader."""
        return self.administer(sql_readers.reader_positions, only_reads=True)

    def reader_position(self, reader: str) -> ReaderPosition | None:
        """Return the position that a reader reported last; None for an unknown reader."""
        return self.administer(lambda db: sql_readers.reader_position(db, reader), only_reads=True)

    def report_position(self, reader: str, position: ReaderPosition) -> ReaderPosition:
        """Store a reader's position, never less than before; return what is stored."""
        return self.administer(lambda db: sql_readers.report_position(db, reader, position))
