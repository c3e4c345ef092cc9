"""Keeps in memory what is known of the reports that are not added up yet, and of a fold under way.

Only ids, and what each sender reported, are kept: the fold reads the reports themselves. It is only
a copy: after a crash, or a commit that failed, the next fold reads what senders reported too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from collector.reports.sender_days import HOUR_MILLIS, HourBytes

IDS_TOGETHER = 4096
"""With so many ids a dictionary gets no more: forgetting some of many means copying the others."""


class SenderHours:
    """The raw bytes that reports have, by sender and hour of arrival."""

    def __init__(self) -> None:
        self._bytes: dict[tuple[str, int], int] = {}
        self.heard: dict[str, int] = {}
        """When the newest report of each sender arrived."""

    def add(self, sent: Iterable[tuple[str, int]], *, at_millis: int) -> None:
        """Add the raw bytes of each sender of a commit."""
        hour = at_millis // HOUR_MILLIS
        for sender, raw_bytes in sent:
            self._bytes[sender, hour] = self._bytes.get((sender, hour), 0) + raw_bytes
            self.heard[sender] = max(at_millis, self.heard.get(sender, 0))

    def rows(self) -> list[HourBytes]:
        """Return what each sender reported in each hour."""
        return [HourBytes(*key, raw_bytes) for key, raw_bytes in self._bytes.items()]


class Folding:
    """A fold under way: of all reports that were stored when it began, some at a time.

    First they are gathered, then added to the sums of some users at a time.
    """

    def __init__(
        self,
        *,
        after: int,
        through: int,
        after_user: str | None,
        hours: SenderHours | None,
        is_small: bool,
        is_rest: bool,
        orders_changes: bool,
    ) -> None:
        self.after, self.through = after, through
        """The seqs between which these reports are."""
        self.hours = hours
        """None if they have to be read."""
        self.is_small = is_small
        """Whether all is done in one step."""
        self.is_rest = is_rest
        """Whether it was interrupted, and more was stored before it went on."""
        self.gathered_through = after
        """Up to which seq they are gathered."""
        self.after_user = after_user
        """Up to which user they are in the sums; None before the first."""
        self.orders_changes = orders_changes
        """Whether changes of days have seqs in the order in which days are stored."""
        self._ends: Sequence[str] = ()
        self._rows_left = 0

    @property
    def changes_after(self) -> int | None:
        """The seq after which the next part has its seqs as changes of days.

        There are at most as many rows as reports, so all are within `after` and `through`, and each
        is of one row; also where a fold goes on that was interrupted. None where a row has the seq
        of its last report.
        """
        return self.through - self._rows_left if self.orders_changes else None

    @property
    def next_end(self) -> str | None:
        """The last user of the next part; None where it is the last one."""
        return self._ends[0] if self._ends else None

    def divide(self, *, rows: int, ends: Sequence[str]) -> None:
        """Set how many rows of sums there are, and the last users of all parts but the last."""
        self._rows_left, self._ends = rows, ends

    def note_added(self, through_user: str, *, rows: int) -> None:
        """Note that the next part, up to its last user, is stored, which had so many rows."""
        self.after_user, self._ends = through_user, self._ends[1:]
        self._rows_left -= rows


class Unfolded:
    """The reports that are stored and not in the sums yet: senders; and ids not indexed yet."""

    def __init__(self, seqs: dict[bytes, int], *, hours: SenderHours | None) -> None:
        self._seqs = [seqs]
        """By id, those of reports whose ids are in no index yet; in the order of seqs."""
        self.hours = hours
        """Of the reports after the fold under way; None if they have to be read."""
        self.folding: Folding | None = None

    def add(
        self, seqs: dict[bytes, int], sent: Iterable[tuple[str, int]], *, at_millis: int
    ) -> None:
        """Add the ids of a commit with their seqs, and the raw bytes of each of its senders."""
        if len(self._seqs[-1]) < IDS_TOGETHER:
            self._seqs[-1].update(seqs)
        else:
            self._seqs.append(seqs)
        if self.hours is not None:
            self.hours.add(sent, at_millis=at_millis)

    @property
    def keys(self) -> Iterable[bytes]:
        """The ids that are in no index yet, and some of them that are."""
        return chain.from_iterable(self._seqs)

    @property
    def ids(self) -> int:
        """How many `keys` has."""
        return sum(map(len, self._seqs))

    def forget_keys(self, through: int) -> None:
        """Forget keys of reports up to a seq, which are indexed."""
        kept = [each for each in self._seqs if each and next(reversed(each.values())) > through]
        self._seqs = kept or [{}]

    def seqs_of(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        """Return those of the keys that a report has that is not indexed, with its seq."""
        found: dict[bytes, int] = {}
        for known in self._seqs:
            if not known.keys().isdisjoint(keys):
                found.update((key, known[key]) for key in keys if key in known)
        return found
