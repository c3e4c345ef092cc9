"""A PostgreSQL ledger as a place: one database that collectors share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Final, TypeVar

from collector.errors import LedgerError
from collector.ledger.corrections import Wanted
from collector.ledger.postgres import export as postgres_export
from collector.ledger.postgres.administration import corrections as postgres_corrections
from collector.ledger.postgres.administration import names as postgres_names
from collector.ledger.postgres.link import Db, Link, name_of
from collector.ledger.postgres.reader import PostgresReader
from collector.ledger.postgres.schema import bring_forward
from collector.ledger.postgres.writer import PostgresLedger
from collector.ledger.readers import Standing
from collector.ledger.sqlite.administration.ratios import check_server
from collector.ledger.sqlite.administration.reporters import check_name
from collector.reports.billing import Ratio
from collector.reports.reporters import Configured, merge_configured, revoke_configured

T = TypeVar("T")


class PostgresPlace:
    """A database, by its `postgresql://` URL. Its server keeps it, so its disk is the server's.

    Raises NotStoredError and its kinds where the server cannot be reached.
    """

    is_shared: Final = True

    def __init__(self, url: str) -> None:
        self._url = url
        self.name = name_of(url)  # raises SettingsError for a malformed one

    def prepare(self) -> None:
        """Make the tables where there are none, and bring them forward."""
        with closing(Link(self._url)) as link:
            bring_forward(link)

    def open(self) -> PostgresLedger:
        """Open the writing side; it leads if nobody does."""
        return PostgresLedger(self._url)

    def reader(self) -> PostgresReader:
        """Open the reading side; where that cannot be, the error says why."""
        with closing(Link(self._url, only_reads=True)) as link:
            link.connect()
        return PostgresReader(self._url)

    def identity(self) -> None:
        """Nothing: a database that was replaced is told by its own lease."""

    def free_disk_bytes(self) -> None:
        """Nothing: the disk is the server's."""

    def _run(self, work: Callable[[Db], T]) -> T:
        with closing(Link(self._url)) as link:
            bring_forward(link)
            return link.run(work)

    def add_reporter(
        self,
        name: str,
        *,
        now_millis: int,
        counts_toward_quota: bool | None = None,
        key: str | None = None,
    ) -> str:
        """Store a new reporter and return its key."""
        check_name(name)
        return self._run(
            lambda db: postgres_names.add_reporter(
                db, name, now_millis=now_millis, counts_toward_quota=counts_toward_quota, key=key
            )
        )

    def note_configured(self, configured: Sequence[Configured]) -> None:
        """Note which keys the environment of a collector has."""
        self._run(
            lambda db: postgres_names.keep_configured(
                db, lambda kept: merge_configured(kept, configured)
            )
        )

    def revoke_configured(self, name: str, *, now_millis: int) -> bool:
        """Make the environment's key of a name invalid."""
        return self._run(
            lambda db: postgres_names.keep_configured(
                db, lambda kept: revoke_configured(kept, name, now_millis=now_millis)
            )
        )

    def change_reporter(self, name: str, *, counts_toward_quota: bool) -> None:
        """Say whether what a reporter reports from now on is billed."""
        if not self._run(
            lambda db: postgres_names.change_reporter(
                db, name, counts_toward_quota=counts_toward_quota
            )
        ):
            raise LedgerError(f"there is no reporter {name!r} to change; see `reporters list`")

    def rotate_reporter(self, name: str, *, now_millis: int, grace_millis: int) -> str:
        """Give a reporter another key and return it."""
        key = self._run(
            lambda db: postgres_names.rotate_reporter(
                db, name, now_millis=now_millis, grace_millis=grace_millis
            )
        )
        if key is None:
            raise LedgerError(f"there is no reporter {name!r} to rotate; see `reporters list`")
        return key

    def revoke_reporter(self, name: str, *, now_millis: int) -> None:
        """Make a reporter's key invalid."""
        if not self._run(
            lambda db: postgres_names.revoke_reporter(db, name, now_millis=now_millis)
        ):
            raise LedgerError(f"there is no reporter {name!r} to revoke; see `reporters list`")

    def set_ratio(self, ratio: Ratio) -> int | None:
        """Store how much a byte on a server counts; return the ratio before."""
        check_server(ratio.server)
        return self._run(lambda db: postgres_names.set_ratio(db, ratio))

    def clear_ratio(self, server: str) -> None:
        """Have a byte on a server count as a byte again."""
        if not self._run(lambda db: postgres_names.clear_ratio(db, server)):
            raise LedgerError(f"the server {server!r} has no ratio; see `ratios list`")

    def ask_correction(self, wanted: Wanted, *, asked_at_millis: int) -> int:
        """Store that a correction is wanted; return its number."""
        return self._run(
            lambda db: postgres_corrections.ask(db, wanted, asked_at_millis=asked_at_millis)
        )

    def rewind_exports(self) -> None:
        """Begin all exports anew."""
        self._run(postgres_export.rewind)

    def standings(self) -> dict[str, Standing]:
        """Return how far the books of all readers were."""
        return self._run(postgres_names.standings)

    def standing_of(self, reader: str) -> Standing | None:
        """Return how far a reader's books were."""
        return self._run(lambda db: postgres_names.standing_of(db, reader))

    def keep_standing(self, reader: str, standing: Standing) -> Standing:
        """Store how far a reader's books are."""
        return self._run(lambda db: postgres_names.keep_standing(db, reader, standing))
