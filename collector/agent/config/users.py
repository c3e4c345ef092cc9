"""Maps the names that a source uses to usernames; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class UserMap:
    """Maps a name by a pattern, which extracts a part of it, and then by a table.

    Without a pattern the whole name is used; without a table the result, stripped of blanks, is the
    username.
    """

    pattern: re.Pattern[str] | None = None
    table: Mapping[str, str] | None = field(default=None, repr=False)

    def username(self, name: str) -> str | None:
        """Return the username of a name; None for a name that matches no user."""
        if self.pattern is not None:
            found = self.pattern.fullmatch(name)
            if found is None:
                return None
            name = found["user"] or ""
        if self.table is not None:
            return self.table.get(name)
        return name.strip() or None


def compile_pattern(text: str) -> re.Pattern[str]:
    """Return a pattern with a group `user`; ValueError says what is wrong with it."""
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from error
    if "user" not in pattern.groupindex:
        raise ValueError("must have a group (?P<user>...), which is the username")
    return pattern
