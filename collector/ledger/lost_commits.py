"""Detects that a shared ledger has lost commits that this collector has seen; pure.

After a failover to a standby that lagged behind, or after a restore, the last commits are missing,
and the ledger itself cannot tell. So a running collector remembers the highest seq up to which it
has seen reports added up, the run that numbered them (decision 0008), and the groups that it has
stored itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from collector.ledger import WriterRun

MAX_GROUPS = 10_000
KEPT_MILLIS = 12 * 3_600_000
"""Reports are kept for a day at least, so a younger group that is missing was lost."""


def went_back(known: WriterRun, *, seq: int, token_then: str | None) -> bool:
    """Tell whether a ledger is not a continuation of the one that was seen.

    `known` has the highest seq that was seen and the run that numbered it. `token_then` is the run
    that numbered that seq according to the ledger now; None if the ledger does not know.
    """
    return seq < known.after_seq or (token_then is not None and token_then != known.token)


def shared_seq(known: Collection[str], runs: Sequence[WriterRun], *, seq: int) -> int:
    """Return the seq up to which a ledger still has what was seen in it.

    `known` are the tokens of the runs that were seen, `runs` the ledger's present runs, oldest
    first. Returns 0 if they have no run in common.
    """
    shared = [each.after_seq for each in runs if each.token in known]
    if not shared:
        return 0
    return min([seq, *(each.after_seq for each in runs if each.after_seq > shared[-1])])


@dataclass(frozen=True, slots=True)
class OwnGroup:
    """One commit of this collector."""

    group_id: int
    reports: int
    received_at_millis: int


class OwnGroups:
    """The newest commits of this collector that were acknowledged."""

    def __init__(self) -> None:
        self._groups: deque[OwnGroup] = deque(maxlen=MAX_GROUPS)

    def note(self, group: OwnGroup) -> None:
        """Remember a commit, and forget those that may have been purged."""
        self._groups.append(group)
        while group.received_at_millis - self._groups[0].received_at_millis > KEPT_MILLIS:
            self._groups.popleft()

    @property
    def ids(self) -> list[int]:
        """The ids of the groups to look up in the ledger."""
        return [each.group_id for each in self._groups]

    def take_missing(self, asked: Sequence[int], found: Collection[int]) -> list[OwnGroup]:
        """Return, and forget, the groups that were looked up and not found."""
        gone = set(asked) - set(found)
        missing = [each for each in self._groups if each.group_id in gone]
        if missing:
            kept = (each for each in self._groups if each.group_id not in gone)
            self._groups = deque(kept, maxlen=MAX_GROUPS)
        return missing


@dataclass(slots=True)
class Losses:
    """The losses that this collector has found since it was started."""

    reports: int = 0
    """How many acknowledged reports are lost, as far as they are remembered."""
    _since_millis: int | None = None
    _until_millis: int = 0
    _ranges: list[tuple[int, int]] = field(default_factory=list)

    def add_range(self, *, shared: int, known: int) -> None:
        """Note that reports were seen up to `known`, and are in the ledger up to `shared` only."""
        self._ranges.append((shared + 1, known))

    def add_groups(self, missing: Sequence[OwnGroup]) -> None:
        """Note that commits of this collector are lost."""
        for each in missing:
            self.reports += each.reports
            at = each.received_at_millis
            self._since_millis = at if self._since_millis is None else min(self._since_millis, at)
            self._until_millis = max(self._until_millis, at)

    @property
    def text(self) -> str | None:
        """Describe the losses; None if there are none."""
        if not self._ranges and not self.reports:
            return None
        what = [f"numbers {first} to {last}" for first, last in self._ranges]
        if self._since_millis is not None:
            span = f"{_shown(self._since_millis)} to {_shown(self._until_millis)} UTC"
            what.append(f"{self.reports} reports that this collector acknowledged, from {span}")
        return (
            f"the ledger lost commits that this collector had seen in it ({'; '.join(what)}), as "
            "after a failover to a standby that lagged behind, or a restored backup. The ids of "
            "these reports are lost as well: sent again, they are counted. docs/scale.md says "
            "what to do; restart the collector when that is done"
        )


def _shown(millis: int) -> str:
    return f"{datetime.fromtimestamp(millis / 1000, UTC):%Y-%m-%d %H:%M:%S}"
