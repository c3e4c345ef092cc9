"""What one commit of an SQLite ledger stores."""

from __future__ import annotations

from collector.ledger.capacity import Room
from collector.ledger.sqlite.unfolded import ReportRow


class CommitGroup:
    """The rows of the reports that one commit will store, and their sums."""

    def __init__(self, last_seq: int, room: Room | None, received_at_millis: int) -> None:
        self.last_seq = last_seq
        self.received_at_millis = received_at_millis
        self.room = room
        """Decides about each report; None where all fit."""
        self.raw_bytes = self.billed_bytes = 0
        self.rows: list[ReportRow] = []
        self.sent: list[tuple[str, int]] = []
        """The raw bytes of each batch, with its sender."""
