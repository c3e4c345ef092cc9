"""Detects lost commits of a PostgreSQL ledger; see `lost_commits`."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from collector.errors import NotStoredError
from collector.ledger import WriterRun
from collector.ledger.lost_commits import Losses, OwnGroup, OwnGroups, shared_seq, went_back
from collector.ledger.postgres.link import Db
from collector.ledger.postgres.sums import partitions
from collector.ledger.postgres.sums.partitions import Positions
from collector.runtime.postgres.lease import LEASE_COLUMNS, LeaseRow

log = logging.getLogger(__name__)

_HEAD = f"""
    SELECT p.part, x.first_seq, n.seq, {LEASE_COLUMNS},
        EXISTS (SELECT 1 FROM report_group WHERE first_seq IS NULL),
        (SELECT token FROM run WHERE after_seq < n.seq ORDER BY after_seq DESC LIMIT 1),
        (SELECT token FROM run WHERE after_seq < %s ORDER BY after_seq DESC LIMIT 1)
    FROM numbering AS n CROSS JOIN lease AS l LEFT JOIN ({partitions.FIRSTS}) ON true
    WHERE n.id = 1
"""


@dataclass(frozen=True, slots=True)
class Head:
    """The last number that was given out, who leads, and how far adding up is, as of one moment."""

    seq: int
    lease: LeaseRow
    has_unnumbered: bool
    positions: Positions


class Recall:
    """What one collector remembers of a ledger; used by its writing threads."""

    def __init__(self) -> None:
        self.losses = Losses()
        self._guard = threading.Lock()
        self._groups = OwnGroups()
        self._known: WriterRun | None = None
        self._tokens: set[str] = set()
        """Tokens of the runs that numbered the reports that were seen."""

    def read_head(self, db: Db) -> Head:
        """Read the last number; note a loss if it is behind what was seen before."""
        known_seq = self._known.after_seq if self._known else 0
        rows = db.execute(_HEAD, (known_seq,)).fetchall()
        if not rows:
            raise NotStoredError("the ledger has no numbering: was it restored in part?")
        seq, *lease, has_unnumbered, token, token_then = rows[0][2:]
        if self._known and went_back(self._known, seq=seq, token_then=token_then):
            shared = shared_seq(self._tokens, _runs(db), seq=seq)
            self.losses.add_range(shared=shared, known=known_seq)
            log.error("%s", self.losses.text)
            self.compare(db)  # a dump may be restored without the connection being lost
            self._known = None
            self._tokens.clear()
        if token is not None:
            if token not in self._tokens:
                self._tokens.update(each.token for each in _runs(db))
            self._known = WriterRun(seq, token)
        positions = partitions.positions_of([row[:2] for row in rows], numbered=int(seq))
        return Head(int(seq), LeaseRow(*lease), bool(has_unnumbered), positions)

    def numbered(self, seq: int, token: str | None) -> None:
        """Note that this collector has numbered reports to a seq, under a run's token."""
        if token is not None and seq:
            self._tokens.add(token)
            self._known = WriterRun(seq, token)

    def stored(self, group_id: int, reports: int, *, received_at_millis: int) -> None:
        """Note that this collector has stored a group."""
        with self._guard:
            self._groups.note(OwnGroup(group_id, reports, received_at_millis))

    def compare(self, db: Db) -> None:
        """Check that the groups stored by this collector exist; also on each new connection."""
        with self._guard:
            asked = self._groups.ids
        if not asked:
            return
        query = "SELECT id FROM report_group WHERE id = ANY(%s::bigint[])"
        found = [row[0] for row in db.execute(query, (asked,)).fetchall()]
        with self._guard:
            if missing := self._groups.take_missing(asked, found):
                self.losses.add_groups(missing)
                log.error("%s", self.losses.text)


def _runs(db: Db) -> list[WriterRun]:
    rows = db.execute("SELECT after_seq, token FROM run ORDER BY after_seq").fetchall()
    return [WriterRun(*row) for row in rows]
