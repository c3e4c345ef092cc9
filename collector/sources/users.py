"""Maps a source's user names to usernames; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from collector.reports.report import MAX_USERNAME_LENGTH

USERNAME_GROUP = "username"
_SHOWN = 64


@dataclass(frozen=True, slots=True)
class Users:
    """How a source's names become usernames: by a pattern, by a table, or as they are."""

    pattern: re.Pattern[str] | None = None
    """A pattern with a group `username`, which must match the whole name."""
    table: Mapping[str, str] | None = field(default=None, repr=False)

    def username_of(self, foreign: str) -> str | None:
        """Return the username, None for a name that matches no user.

        Blanks around it are stripped: another program's name becomes a username here, and those
        have none.
        """
        if self.table is not None:
            return self.table.get(foreign)
        if self.pattern is None:
            return foreign.strip() or None
        # A longer text is no username; this also bounds the input of the pattern.
        if len(foreign) > MAX_USERNAME_LENGTH:
            return None
        found = self.pattern.fullmatch(foreign)
        name = found[USERNAME_GROUP] if found else None
        return (name or "").strip() or None

    def why_no_user(self, foreign: str) -> str:
        """Say why a name matches no user."""
        shown = ascii(foreign[:_SHOWN])
        if self.table is not None:
            return f"{shown} is not in the source's table of users"
        return f"{shown} does not fit the source's pattern of users"

    def __str__(self) -> str:
        if self.table is not None:
            return f"table of {len(self.table)}"
        return "as they are" if self.pattern is None else f"pattern {self.pattern.pattern}"


AS_THEY_ARE = Users()
