"""Does a store in PostgreSQL still have all that a process has seen in it?

A term is the time for which one bridge leads; its token is random, and its commits are counted in
the row of the lease. A later leader leaves the count of each former term there. So a process
that has seen a term at some count can tell later, however many have led since, whether that commit
is there: a standby that took over without it, and a restored backup, have a smaller count, or lack
the term.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

TOKEN_BYTES = 12
"""Of the tokens of bridges that count their commits; those of earlier versions have 8."""
MAX_FORMER_LENGTH = 8000
"""Of the list of former terms, in characters: some 200 of them. The oldest are cut off."""


@dataclass(frozen=True, slots=True)
class Term:
    """A bridge's time of leading, and how many of its commits are in the store."""

    token: str
    commits: int

    @property
    def is_counted(self) -> bool:
        """Whether the bridge that led, or leads, is one that counts its commits."""
        return len(self.token) == 2 * TOKEN_BYTES


def former_terms(text: str) -> dict[str, int]:
    """Return the commits of former terms by their tokens, as the row of the lease has them."""
    found: dict[str, int] = {}
    for entry in text.split():
        token, _, commits = entry.partition(":")
        if commits.isdigit():
            found[token] = int(commits)
    return found


def lacks(known: Term, now: Term, *, former: str) -> bool:
    """Tell whether a store is without commits of a term that were seen in it.

    `now` is the term that the store is in, `former` the list of those before. Of a term that has
    been cut off from the list nothing is told.
    """
    if now.token == known.token:
        return now.commits < known.commits
    commits = former_terms(former).get(known.token)
    if commits is None:
        return len(former) < MAX_FORMER_LENGTH
    return commits < known.commits


def has_moved(led_in: str, mark: str | None, *, seen: Collection[str]) -> bool:
    """Tell whether a store is elsewhere than it was last led in, and may have come there in part.

    `led_in` and `mark` are places (`database_mark`), empty or None where they are not known; `seen`
    are those in which this process would have missed whatever got lost.
    """
    return bool(led_in) and mark is not None and mark != led_in and led_in not in seen


def lost_text(*, where: str, known: Term, holder: str) -> str:
    """Say that a store lacks what a process on a host has seen in it."""
    return (
        f"the store {where} lacks commits that the bridge {holder} has seen in it (there were "
        f"{known.commits} of the leader of then), as after a failover to a standby that lagged "
        "behind, or a restored backup: limits, quotas and resets since are not in it, and may be "
        f"in the panel. {UNTIL_REBASED}"
    )


def moved_text(*, where: str) -> str:
    """Say that a store is in another place than it was led in, and no bridge vouches for it."""
    return (
        f"the store {where} is in another database, or on another timeline of its server, than it "
        "was last led in: a backup was restored, or a standby took over, and no bridge lived "
        f"through it that could tell whether commits are missing. {UNTIL_REBASED}"
    )


UNTIL_REBASED = (
    "No user is changed until `marzban-bridge rebase --restored` (docs/scale.md says what it takes "
    "from where)"
)
