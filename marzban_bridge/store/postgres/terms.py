"""Detects that a store in PostgreSQL lacks commits that a process has seen in it.

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
"""The token length of bridges that count commits; tokens of earlier versions have 8."""
MAX_FORMER_LENGTH = 8000
"""The bound of the list of former terms in characters: some 200. The oldest are cut off."""


@dataclass(frozen=True, slots=True)
class Term:
    """The term of one leader, and the number of its commits in the store."""

    token: str
    commits: int

    @property
    def is_counted(self) -> bool:
        """Whether the leader of the term counts its commits."""
        return len(self.token) == 2 * TOKEN_BYTES


def former_terms(text: str) -> dict[str, int]:
    """Parse the commits of former terms, by token, from the row of the lease."""
    found: dict[str, int] = {}
    for entry in text.split():
        token, _, commits = entry.partition(":")
        if commits.isdigit():
            found[token] = int(commits)
    return found


def lacks(known: Term, now: Term, *, former: str) -> bool:
    """Tell whether a store lacks commits of a term that were seen in it.

    `now` is the store's current term, `former` the list of those before. For a term that was cut
    off from the list the answer is False.
    """
    if now.token == known.token:
        return now.commits < known.commits
    commits = former_terms(former).get(known.token)
    if commits is None:
        return len(former) < MAX_FORMER_LENGTH
    return commits < known.commits


def has_moved(led_in: str, mark: str | None, *, seen: Collection[str]) -> bool:
    """Tell whether a store's database is not the one it was last led in, and may lack commits.

    `led_in` and `mark` identify databases (`database_mark`), empty or None if unknown; `seen` are
    those in which this process would have detected lost commits.
    """
    return bool(led_in) and mark is not None and mark != led_in and led_in not in seen


def lost_text(*, where: str, known: Term, holder: str) -> str:
    """Return the message for a store that lacks commits a process has seen in it."""
    return (
        f"the store {where} lacks commits that the bridge {holder} has seen in it (the leader of "
        f"that term had {known.commits}), as after a failover to a standby that lagged behind, or "
        "a restored backup: later limits, quotas and resets are missing, and may be in the panel. "
        f"{UNTIL_REBASED}"
    )


def moved_text(*, where: str) -> str:
    """Say that a store is in another place than it was led in, and no bridge vouches for it."""
    return (
        f"the store {where} is in another database, or on another timeline of its server, than it "
        "was last led in: a backup was restored, or a standby took over, and no bridge ran "
        f"before and after it that could tell whether commits are missing. {UNTIL_REBASED}"
    )


UNTIL_REBASED = "No user is changed until `marzban-bridge rebase --restored` (see docs/scale.md)"
