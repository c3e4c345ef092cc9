"""The embedded ledger as a place: one file."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from collector.ledger.corrections import Wanted
from collector.ledger.readers import Standing
from collector.ledger.sqlite import export as sqlite_export
from collector.ledger.sqlite import file as sqlite_file
from collector.ledger.sqlite.administration import corrections as sqlite_corrections
from collector.ledger.sqlite.administration import ratios as sqlite_ratios
from collector.ledger.sqlite.administration import readers as sqlite_readers
from collector.ledger.sqlite.administration import reporters as sqlite_reporters
from collector.ledger.sqlite.reader import SqliteReader
from collector.ledger.sqlite.writer import SqliteLedger
from collector.reports.billing import Ratio
from collector.reports.reporters import Configured, merge_configured, revoke_configured


class SqlitePlace:
    """A ledger file, by its `sqlite:///` URL."""

    is_shared: Final = False

    def __init__(self, url: str) -> None:
        self.path: Path = sqlite_file.ledger_path(url)

    @property
    def name(self) -> str:
        """The file."""
        return str(self.path)

    def prepare(self) -> None:
        """Open and close it as its one writer."""
        SqliteLedger(self.path).close()

    def open(self) -> SqliteLedger:
        """Open the writing side."""
        return SqliteLedger(self.path)

    def reader(self) -> SqliteReader:
        """Open the reading side."""
        return SqliteReader(self.path)

    def identity(self) -> tuple[int, int] | None:
        """Return which file it is."""
        return sqlite_file.identity_of(self.path)

    def free_disk_bytes(self) -> int:
        """Return what is free on its disk."""
        return shutil.disk_usage(self.path.parent).free

    def add_reporter(
        self,
        name: str,
        *,
        now_millis: int,
        counts_toward_quota: bool | None = None,
        key: str | None = None,
    ) -> str:
        """Store a new reporter and return its key."""
        return sqlite_reporters.add_reporter(
            self.path,
            name,
            now_millis=now_millis,
            counts_toward_quota=counts_toward_quota,
            key=key,
        )

    def note_configured(self, configured: Sequence[Configured]) -> None:
        """Note which keys the environment of a collector has."""
        sqlite_reporters.keep_configured(self.path, lambda kept: merge_configured(kept, configured))

    def revoke_configured(self, name: str, *, now_millis: int) -> bool:
        """Make the environment's key of a name invalid."""
        return sqlite_reporters.keep_configured(
            self.path, lambda kept: revoke_configured(kept, name, now_millis=now_millis)
        )

    def change_reporter(self, name: str, *, counts_toward_quota: bool) -> None:
        """Say whether what a reporter reports from now on is billed."""
        sqlite_reporters.change_reporter(self.path, name, counts_toward_quota=counts_toward_quota)

    def rotate_reporter(self, name: str, *, now_millis: int, grace_millis: int) -> str:
        """Give a reporter another key and return it."""
        return sqlite_reporters.rotate_reporter(
            self.path, name, now_millis=now_millis, grace_millis=grace_millis
        )

    def revoke_reporter(self, name: str, *, now_millis: int) -> None:
        """Make a reporter's key invalid."""
        sqlite_reporters.revoke_reporter(self.path, name, now_millis=now_millis)

    def set_ratio(self, ratio: Ratio) -> int | None:
        """Store how much a byte on a server counts; return the ratio before."""
        return sqlite_ratios.set_ratio(self.path, ratio)

    def clear_ratio(self, server: str) -> None:
        """Have a byte on a server count as a byte again."""
        sqlite_ratios.clear_ratio(self.path, server)

    def ask_correction(self, wanted: Wanted, *, asked_at_millis: int) -> int:
        """Store that a correction is wanted; return its number."""
        return sqlite_corrections.ask(self.path, wanted, asked_at_millis=asked_at_millis)

    def rewind_exports(self) -> None:
        """Begin all exports anew."""
        sqlite_export.rewind(self.path)

    def standings(self) -> dict[str, Standing]:
        """Return how far the books of all readers were."""
        return sqlite_readers.standings(self.path)

    def standing_of(self, reader: str) -> Standing | None:
        """Return how far a reader's books were."""
        return sqlite_readers.standing_of(self.path, reader)

    def keep_standing(self, reader: str, standing: Standing) -> Standing:
        """Store how far a reader's books are."""
        return sqlite_readers.keep_standing(self.path, reader, standing)
